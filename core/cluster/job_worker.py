"""The worker of a job that a node does: `python -m core.cluster.job_worker FOLDER FD`.

The job runs in the node's home; here its progress, its results so far and its end are told, so that pages
and the command line see a job like any other. A node that doesn't answer for a while goes on with it.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from core.cluster.link import ClusterLink
from core.cluster.protocol import JobNews, NodeJob, Verb
from core.codec import decode
from core.config import load_cluster
from core.errors import ConfigError, EngineError, LMDynoError
from core.i18n import N_
from core.jobs.records import JobState
from core.jobs.worker import Report, run
from core.settings import Settings, load_settings

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
