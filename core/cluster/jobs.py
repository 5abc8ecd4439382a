"""Work on a node besides engines: background jobs, and processes that send a load test's requests.

The agent on the node does most of it (`do_job`, `start_load_process`). Here, a job has a worker that
follows what the node does: `follow`, or this module itself for a quantisation (`python -m core.cluster.jobs
FOLDER FD`). The job runs in the node's home; here its progress, its results so far and its end are told, so
that pages and the command line see a job like any other. A node that doesn't answer for a while goes on
with it.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.cluster.link import ClusterLink
from core.cluster.protocol import JobNews, NodeJob, Quantisation, Verb
from core.codec import decode, encode
from core.config import load_cluster
from core.domain.specs import ModelSpec
from core.domain.turns import utc_now
from core.errors import ConfigError, EngineCrashed, EngineError, InputError, LMDynoError
from core.i18n import N_
from core.jobs.registry import Jobs, JobState
from core.jobs.worker import Report, run
from core.models.awq.options import AwqOptions
from core.models.job import QUANTISING, awq_folder, quantize
from core.settings import PROJECT_ROOT, Settings, load_settings

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
        "core.cluster.jobs",
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


_LOOK_S = 1.0


def follow(
    settings: Settings,
    node: str,
    job: NodeJob,
    report: Report,
    on_outcome: Callable[[str], None] = lambda _content: None,
) -> Mapping[str, Any]:
    """Have the node do the job, and return its result; whoever ends this process cancels the job.

    Args:
        settings: the home here.
        node: its name in the cluster.
        job: what to do.
        report: takes the job's progress.
        on_outcome: takes each new content of the job's results.

    Raises LMDynoError: the job can't be started there, failed, or was cancelled there.
    """
    cluster = load_cluster(settings)
    if cluster is None:
        raise ConfigError(
            N_("lanes.toml has no [cluster], so there is no node {node}.", node=node),
            hint=N_('Add [cluster] with address = "auto" or "HOST:6379" to lanes.toml.'),
        )
    link = ClusterLink(settings, cluster)
    link.await_reports()
    report(N_("Starting on node {node}", node=node))
    news = _news(link, Verb.JOB_START, node, job)
    job = NodeJob(id=news.id, outcome=job.outcome)
    try:
        while True:
            if news.outcome is not None:
                on_outcome(news.outcome)
                job = replace(job, seen=news.digest)
            if news.record.state.ended:
                return _result(node, news)
            stage = N_("{node}: {stage}", node=node, stage=news.record.stage or news.record.state)
            report(stage, news.record.progress)
            time.sleep(_LOOK_S)
            news = _next(link, node, job, news, report)
    finally:
        if not news.record.state.ended:
            with suppress(LMDynoError):
                _news(link, Verb.JOB_CANCEL, node, job)


def _next(link: ClusterLink, node: str, job: NodeJob, last: JobNews, report: Report) -> JobNews:
    """How the job is now; as it was last, where the node doesn't answer."""
    try:
        return _news(link, Verb.JOB_LOOK, node, job)
    except EngineError as error:
        report(N_("{problem} The job goes on there.", problem=error.message), last.record.progress)
        return replace(last, outcome=None)


def _news(link: ClusterLink, verb: Verb, node: str, job: NodeJob) -> JobNews:
    news = link.ask(verb, node=node, job=job).news
    assert news is not None
    return news


def _result(node: str, news: JobNews) -> Mapping[str, Any]:
    sys.stdout.write(f"{news.log}\n")
    record = news.record
    if record.state is JobState.DONE:
        return record.result or {}
    if record.error is not None:
        message = N_("Node {node}: {problem}", node=node, problem=record.error.message)
        raise LMDynoError(message, hint=record.error.hint, code=record.error.code)
    raise LMDynoError(N_("The job was cancelled on node {node}.", node=node), code="job-cancelled")


def end_when_told() -> None:
    """End on SIGTERM by way of `finally`, which cancels the job on the node."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    job = decode(NodeJob, json.dumps(arguments["job"]))
    return follow(load_settings(), arguments["node"], job, report)


if __name__ == "__main__":
    end_when_told()
    sys.exit(run(work))
