"""A session's results as one HTML file: the same tables and charts as the page, for people without LMDyno.

Texts of people and models go through Jinja2 with escaping on. In the language of whoever exports it.
"""

from collections.abc import Mapping

import plotly.graph_objects as go
import plotly.io as pio
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from core.charts.quality import StrengthBar, strengths_chart
from core.domain.sessions import SessionRecord
from core.i18n import _, current_language
from core.reports.run_html import environment
from core.sessions import telling
from core.sessions.items import set_label
from core.sessions.results import compute_results, judge_results
from core.sessions.statistics import Standings
from core.sessions.telling import lane_figures


def session_html(record: SessionRecord, lane_colors: Mapping[str, str]) -> str:
    """The whole page; `lane_colors` has a colour for every lane. Participants are counted, not named."""
    session = record.session
    results = compute_results(session, record.votes)
    names = telling.lane_names(session)
    sections = [
        (_("Standings"), telling.standings_table(results.standings, names)),
        (_("Pairs"), telling.pairs_table(results.standings, names)),
        (_("Who was preferred to whom"), telling.win_matrix(results.standings, names)),
        (_("Measurements"), telling.figures_table(lane_figures(session, record.answers), names)),
    ]
    if results.categories:
        sections.append((_("By category"), telling.groups_table(results.categories, names, _("Category"))))
    if results.languages:
        sections.append((_("By language"), telling.groups_table(results.languages, names, _("Language"))))
    template = environment().get_template("session.html.j2")
    return template.render(
        language=current_language().tag,
        plotly=Markup(get_plotlyjs()),
        session=session,
        headline=telling.headline(session, results.standings),
        facts=[
            f"{session.created_at:%Y-%m-%d %H:%M} UTC",
            *telling.turnout(results),
            _(set_label(session.plan.prompts)),
            *([session.machine.host] if session.machine else []),
        ],
        chart=_chart(names, results.standings, lane_colors),
        note=_(telling.STRENGTHS_NOTE),
        sections=sections,
        checks=telling.checks(session, results),
        judges=[
            (
                result.judge,
                telling.standings_table(result.standings, names),
                telling.judge_lines(session, result),
            )
            for result in judge_results(session, record.judgements, record.votes)
        ],
    )


def _chart(names: list[str], standings: Standings, colors: Mapping[str, str]) -> Markup:
    bars = [
        StrengthBar(
            lane=names[lane.lane],
            points=lane.points,
            low=lane.low,
            high=lane.high,
            text=telling.rank_text(lane, standings),
        )
        for lane in standings.lanes
        if lane.points is not None
    ]
    if not bars:
        return Markup()
    figure: go.Figure = strengths_chart(bars, colors, title=_("Rating in points, with 95% intervals"))
    # plotly escapes what it puts into the script itself.
    return Markup(pio.to_html(figure, full_html=False, include_plotlyjs=False))
