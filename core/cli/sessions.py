"""`sessions`: the blind votes that people gave, and sessions as files."""

from collections.abc import Callable
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from core.access.guard import Action, authorise
from core.charts.colors import lane_color
from core.cli import context
from core.cli.terminal import terminal, write_file
from core.codec import encode_plain
from core.domain.sessions import SessionRecord
from core.errors import InputError
from core.i18n import N_, _
from core.jobs.registry import Jobs, JobState
from core.reports.exported_file import read_session
from core.reports.html import session_html
from core.sessions import telling
from core.sessions.exports import battle_log, llm_comparator, session_json, session_schema, votes_csv
from core.sessions.job import missing_answers, start_answers, start_judging
from core.sessions.results import compute_results, judge_results
from core.sessions.telling import STATE_NAMES, lane_figures
from core.settings import Settings
from core.store.sessions import Sessions

app = typer.Typer(no_args_is_help=True)
console = terminal()

_POLL_S = 2.0

SessionId = Annotated[str, typer.Argument(help=_("The session's ID, as `sessions list` shows it."))]


class Format(StrEnum):
    """The file formats that a session is exported to."""

    JSON = "json"
    CSV = "csv"
    HTML = "html"
    BATTLES = "battles"
    COMPARATOR = "comparator"


@app.command("list", help=_("List the sessions, newest first."))
def list_sessions(as_json: context.AsJson = False) -> None:
    settings, _lanes = context.load()
    with closing(Sessions(settings.database_url)) as store:
        summaries = store.summaries()
    if as_json:
        typer.echo(encode_plain(summaries))
        return
    table = Table("id", _("when (UTC)"), _("state"), _("people"), _("votes"), _("title"))
    for summary in summaries:
        table.add_row(
            summary.id,
            f"{summary.created_at:%Y-%m-%d %H:%M}",
            _(STATE_NAMES[summary.state]),
            str(summary.participants),
            str(summary.votes),
            summary.title[:60],
        )
    console.print(table)


@app.command(help=_("Show the results of a session."))
def show(session: SessionId, as_json: context.AsJson = False) -> None:
    record = _record(session)
    results = compute_results(record.session, record.votes)
    judges = judge_results(record.session, record.judgements, record.votes)
    figures = lane_figures(record.session, record.answers)
    if as_json:
        typer.echo(encode_plain({"results": results, "judges": judges, "figures": figures}))
        return
    names = telling.lane_names(record.session)
    console.print(f"{record.session.plan.title} · {_(STATE_NAMES[record.session.state])}")
    console.print(telling.headline(record.session, results.standings), style="bold")
    console.print(" · ".join(telling.turnout(results)))
    for columns in (
        telling.standings_table(results.standings, names),
        telling.pairs_table(results.standings, names),
        telling.figures_table(figures, names),
    ):
        console.print(_table(columns))
    for line in telling.checks(record.session, results):
        console.print(f"- {line}")
    for judge in judges:
        console.print(_("Judged by {judge}", judge=judge.judge), style="bold")
        console.print(_table(telling.standings_table(judge.standings, names)))
        for line in telling.judge_lines(record.session, judge):
            console.print(f"- {line}")


@app.command(help=_("Export a session as a file."))
def export(
    session: SessionId,
    to: Annotated[
        Format,
        typer.Option(
            "--format",
            help=_(
                "json can be imported again; csv has the votes; html is a report; battles is a log as "
                "LMArena's; comparator is for LLM Comparator."
            ),
        ),
    ] = Format.JSON,
    out: Annotated[Path | None, typer.Option(help=_("The file; without it, stdout."))] = None,
    names: Annotated[bool, typer.Option(help=_("With the participants' names."))] = False,
    lane: Annotated[
        list[str] | None, typer.Option(help=_("For LLM Comparator: the two lanes; default is the first two."))
    ] = None,
) -> None:
    record = _record(session)
    authorise(Action.EXPORT, f"session: {record.session.plan.title}")
    makers: dict[Format, Callable[[], bytes]] = {
        Format.JSON: lambda: session_json(record, names=names),
        Format.CSV: lambda: votes_csv(record, names=names),
        Format.HTML: lambda: _html(record),
        Format.BATTLES: lambda: battle_log(record),
        Format.COMPARATOR: lambda: llm_comparator(record, *_two_lanes(record, lane or [])),
    }
    content = makers[to]()
    if out is None:
        typer.echo(content, nl=False)
    else:
        write_file(out, content)


@app.command("import", help=_("Import a session that another machine exported as JSON."))
def import_session(file: Annotated[Path, typer.Argument(help=_("The file."))]) -> None:
    settings, _lanes = context.load()
    try:
        with file.expanduser().open("rb") as stream:
            record = read_session(stream)
    except OSError as exc:
        raise InputError(
            N_("Can't read {file}: {reason}", file=file, reason=exc.strerror or exc), hint=N_("Name a file.")
        ) from exc
    with closing(Sessions(settings.database_url)) as store:
        typer.echo(store.add(record).id)


@app.command(help=_("Print the JSON Schema of an exported session."))
def schema() -> None:
    typer.echo(session_schema())


@app.command(help=_("Generate the missing answers of a session; Ctrl+C leaves the job running."))
def answers(session: SessionId) -> None:
    settings, _lanes = context.load()
    with closing(Sessions(settings.database_url)) as store:
        kept = store.session(session)
        job = start_answers(settings, kept)
        _follow(settings, job)
        missing = len(missing_answers(kept.plan, store.answers(session)))
    if missing:
        typer.echo(_("{n} answers are missing. Run the command again to ask for them.", n=missing), err=True)
        raise typer.Exit(1)


@app.command(help=_("Let a lane judge a session's pairs, each in both orders."))
def judge(
    session: SessionId,
    lane: Annotated[str, typer.Option(help=_("The lane that judges."))],
    pairs: Annotated[int, typer.Option(help=_("How many pairs at most."), min=1)] = 60,
) -> None:
    settings, registry = context.load()
    spec = registry.lane(lane)
    with closing(Sessions(settings.database_url)) as store:
        job = start_judging(settings, store.session(session), spec, most_items=pairs)
    _follow(settings, job)


def _record(session: str) -> SessionRecord:
    settings, _lanes = context.load()
    with closing(Sessions(settings.database_url)) as store:
        return store.record(session)


def _follow(settings: Settings, job: str) -> None:
    """Print the job's progress until it ends; exit with 1 if it failed."""
    jobs, shown = Jobs(settings), ""
    while True:
        status = jobs.wait(job, _POLL_S)
        stage = _(status.record.stage)
        if stage and stage != shown:
            typer.echo(stage, err=True)
            shown = stage
        if status.state.ended:
            break
    if status.state is not JobState.DONE:
        if status.record.error:
            typer.echo(_(status.record.error.message), err=True)
        raise typer.Exit(1)


def _html(record: SessionRecord) -> bytes:
    names = telling.lane_names(record.session)
    return session_html(record, {name: lane_color(name, names) for name in names}).encode()


def _two_lanes(record: SessionRecord, named: list[str]) -> tuple[int, int]:
    names = telling.lane_names(record.session)
    chosen = named or names[:2]
    if len(set(chosen)) != 2 or not set(chosen) <= set(names):
        raise InputError(
            N_("LLM Comparator compares two lanes."),
            hint=N_("Name two of them with --lane: {names}", names=", ".join(names)),
        )
    return names.index(chosen[0]), names.index(chosen[1])


def _table(columns: telling.Table) -> Table:
    table = Table(*columns)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table
