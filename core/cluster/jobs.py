"""Work on a node besides engines: background jobs, and processes that send a load test's requests.

The agent does most of it; `quantize_on` starts a node's quantisation from here.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from core.cluster.protocol import JobNews, NodeJob, Quantisation, Verb
from core.codec import encode
from core.domain.specs import ModelSpec
from core.domain.turns import utc_now
from core.errors import EngineCrashed, InputError
from core.i18n import N_
from core.jobs.registry import Jobs
from core.models.awq.options import AwqOptions
from core.models.job import QUANTISING, awq_folder, quantize
from core.settings import PROJECT_ROOT, Settings

_LOG_LINES = 15
_LOAD_PROGRAM = "from core.bench.run.load_process import listen; listen()"


def do_job(settings: Settings, verb: Verb, job: NodeJob) -> JobNews:
    """Do what a JOB_… request says in the node's home, and tell how the job is then.

    Raises LMDynoError: the job can't be started, or there is none of that id.
    """
    jobs = Jobs(settings)
    job_id = job.id
    if verb is Verb.JOB_START:
        job_id = _start(settings, jobs, job)
    elif verb is Verb.JOB_CANCEL:
        jobs.cancel(job_id)
    status = jobs.status(job_id)
    outcome, digest = _outcome(settings, job)
    return JobNews(
        id=job_id,
        record=status.record,
        outcome=outcome if digest != job.seen else None,
        digest=digest,
        log=jobs.log_tail(job_id, _LOG_LINES) if status.state.ended else "",
    )


def _start(settings: Settings, jobs: Jobs, job: NodeJob) -> str:
    if job.quantisation is not None:
        options = job.quantisation.options
        if job.quantisation.own_python:
            options = replace(options, python=sys.executable)
        return quantize(settings, job.quantisation.model, options)
    if job.spec is None:
        raise InputError("A job needs a specification")
    env = {**job.spec.env, "LMDYNO_HOME": str(settings.home)}
    return jobs.start(replace(job.spec, python=sys.executable, env=env, created_at=utc_now()))


def _outcome(settings: Settings, job: NodeJob) -> tuple[str | None, str]:
    """The content of the job's results so far, and what names it."""
    if not job.outcome:
        return None, ""
    file = (settings.home / job.outcome).resolve()
    if not file.is_relative_to(settings.home.resolve()) or not file.is_file():
        return None, ""
    content = file.read_bytes()
    return content.decode(), hashlib.blake2b(content, digest_size=12).hexdigest()


def quantize_on(settings: Settings, node: str, model: ModelSpec, options: AwqOptions) -> str:
    """Start the job and return its id; the node checks what `core.models.job.check_quantization` checks here.

    The checkpoint and the result are the node's, under the paths that the model has here.

    Raises AccessDenied, and InputError (`already-running`) while another job writes this result.
    """
    target = str(awq_folder(settings, model, options))
    job = NodeJob(
        quantisation=Quantisation(model=model, options=options, own_python=options.python == sys.executable)
    )
    return Jobs(settings).start_module(
        QUANTISING,
        "core.cluster.job_worker",
        {"model": model.name, "target": target, "node": node, "job": json.loads(encode(job))},
        title=N_("W4A16 of {model} on node {node}", model=model.name, node=node),
        already_running=N_("Another job is already writing this result."),
        is_same=lambda spec: spec.arguments.get("target") == target and spec.arguments.get("node") == node,
    )


def start_load_process(home: Path, address: str, secret: str) -> int:
    """The port on `address` where a new process for a load test's requests waits for who knows the secret.

    The load test connects to it itself (`core.bench.run.load_processes`), so that nothing of a measurement
    passes through Ray or the agent.

    Takes the seconds of its imports. It ends with its connection, or if nobody connects. Raises EngineCrashed
    if it ends before it listens.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _LOAD_PROGRAM],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LMDYNO_HOME": str(home)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    threading.Thread(target=process.wait, name="load-process", daemon=True).start()
    told = {"home": str(home), "address": address, "secret": secret}
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # then it says no port either
    with process.stdout:
        line = process.stdout.readline()
    if not line.strip().isdigit():
        raise EngineCrashed(
            N_("A process of the load test ended before it was ready."),
            hint=N_("See the log of Ray's worker on the node."),
            code="load-process-ended",
        )
    return int(line)
