"""One self-contained page about a campaign: what was asked, what was found, and how far to trust it.

``python -m al_crystal.report.page RUN`` writes it again from the history alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from . import figures

if TYPE_CHECKING:
    import pandas as pd

    from al_crystal.config import Campaign
    from al_crystal.history import State


def write_report(campaign: Campaign, state: State, table: pd.DataFrame) -> Path:
    """Write ``report.html`` (figures and the library that draws them inside) and return its path. ``table`` is ``results.ranking``."""
    path = campaign.folder / "report.html"
    path.write_text(page(campaign, state, table), encoding="utf-8")
    return path


def page(campaign: Campaign, state: State, table: pd.DataFrame) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    template = Template((files("al_crystal.report") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(campaign.name),
        description=escape(campaign.description),
        facts=_facts(campaign, state, table),
        best=_best(campaign, table),
        checked=_checked(state, table),
        figures="\n".join(_figure(title, text, figure) for title, text, figure in _figures(campaign, state, table)),
        provenance=_provenance(campaign, state),
        plotly=get_plotlyjs(),
    )


def _figures(campaign: Campaign, state: State, table: pd.DataFrame) -> Iterator[tuple[str, str, Any]]:
    """Title, one sentence, and figure, in the order of the page; what has no data is left out."""
    good = table[table["status"] == "ok"]
    targets = [name for name in campaign.objective.properties if f"labelled_{name}" in table]
    text = "The best of each round rises if the loop learns; the grey control shows what chance gives."
    yield "How desirable each label was", text, figures.desirability_by_round(table)
    if len(targets) >= 2 and len(good):
        text = "Labelled properties of the relaxed crystals; green is where the objective wants them."
        yield "Where the labels lie", text, figures.property_map(table, targets[0], targets[1], campaign.objective)
    for name in targets:
        if len(good) and f"predicted_{name}" in table:
            text = "The prediction that the crystal was picked on, with its 90 % interval."
            yield f"Predicted before labelling: {figures.axis_title(name)}", text, figures.parity(table, name)
    if state.closed_rounds:
        text = "Error of the beliefs about each batch, its random control among it, before labelling; dotted: of energies of all looks."
        yield "Does the surrogate learn?", text, figures.errors_by_round(state)
    if "screened_formation_energy_per_atom" in table and "proposal_formation_energy_per_atom" in table:
        text = "Picks that the potential had looked at before the batch was chosen, against their labels in the proposed cell."
        yield "What the looks were worth", text, figures.looks(table)
    if len(good):
        text = "On the dotted line the relaxation kept the proposed volume."
        yield "Do the proposed cells mean something?", text, figures.volumes(table)
    text = "A rejected crystal is unphysical or did not converge; it is never a hit."
    yield "What became of the picks", text, figures.outcomes(table)


def _figure(title: str, text: str, figure: Any) -> str:
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True})
    return f"<section class='figure'><h3>{escape(title)}</h3><p>{escape(text)}</p>{drawn}</section>"


def _facts(campaign: Campaign, state: State, table: pd.DataFrame) -> str:
    statuses = table["status"].value_counts()
    facts = {
        "rounds": f"{state.closed_rounds} of {campaign.rounds}",
        "labels": f"{(table['status'] != 'unlabelled').sum()}",
        "converged": f"{statuses.get('ok', 0)}",
        "distinct structures": f"{((table['status'] == 'ok') & (table['same_as'] == '')).sum()}",
        "best desirability": f"{table['desirability'].max():.3f}",
        "hits": "not judged" if table["hit"].isna().all() else f"{int(table['hit'].sum())}",
    }
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in facts.items())


def _best(campaign: Campaign, table: pd.DataFrame, count: int = 15) -> str:
    good = table[(table["status"] == "ok") & (table["same_as"] == "")].head(count)
    if good.empty:
        return "<p>No crystal has converged yet.</p>"
    properties = [column for column in good.columns if column.startswith("labelled_") and good[column].notna().any()]
    wanted = [f"labelled_{name}" for name in campaign.objective.properties if f"labelled_{name}" in properties]
    above = [name for name in ("e_above_hull", "e_above_campaign_hull") if name in good]
    columns = [*wanted, *above, *(column for column in properties if column not in wanted and column != "labelled_energy_per_atom")]
    head = "".join(f"<th>{escape(figures.axis_title(column.removeprefix('labelled_')))}</th>" for column in columns)
    rows = []
    for rank, (_, row) in enumerate(good.iterrows(), start=1):
        cells = "".join(f"<td>{_number(row[column])}</td>" for column in columns)
        mark = "<span class='hit'>hit</span>" if row["hit"] is True else ""
        rows.append(
            f"<tr><td>{rank}</td><th>{_formula(row['formula'])} {mark}</th><td>{row['relaxed_space_group_number']:.0f}</td>"
            f"<td>{escape(row['arm'])}</td><td>{row['round']}</td><td>{row['desirability']:.3f}</td>{cells}</tr>"
        )
    hull = f"Energies above hull are against {escape(str(table['hull'].iloc[0]))}. "
    hit = "A hit is wanted (desirability of at least 0.5), converged, unlike the other labels, novel, and within 0.1 eV/atom of the hull. "
    judged = "" if good["hit"].notna().any() else "Hits were not judged: that needs a hull file (stability) and a table of known_crystals."
    note = hull + hit + judged
    header = f"<tr><th></th><th class='text'>crystal</th><th>group</th><th>arm</th><th>round</th><th>desirability</th>{head}</tr>"
    return f"<div class='scroll'><table><thead>{header}</thead><tbody>{''.join(rows)}</tbody></table></div><p class='note'>{note}</p>"


def _checked(state: State, table: pd.DataFrame) -> str:
    """What density-functional theory said of the crystals that were promoted to it, beside what the potential had said."""
    promoted = [(name, key, line.label) for entry in state.rounds for name, lines in entry.promoted.items() for key, line in lines.items()]
    if not promoted:
        return ""
    rows_by_id = table.set_index("id")
    rows = []
    for name, key, label in promoted:
        row = rows_by_id.loc[key]
        pairs = []
        for target in ("band_gap", "formation_energy_per_atom"):
            value = label.properties.get(target)
            pairs += [row.get(f"labelled_{target}"), None if value is None else value.value]
        numbers = (*pairs, row.get(f"{name}_e_above_campaign_hull"), label.checks.get("max_force"))
        remark = str(label.checks.get("formation_energy_per_atom", "")) if label.status == "ok" else label.reason
        rows.append(
            f"<tr><th>{_formula(row['formula'])}</th><td>{row['round']}</td><td class='text'>{escape(name)}: {label.status}</td>"
            f"{''.join(f'<td>{_number(number)}</td>' for number in numbers)}<td class='text'>{escape(remark)}</td></tr>"
        )
    heads = (
        "round",
        "calculation",
        "gap: potential (eV)",
        "gap: DFT (eV)",
        "formation energy: potential (eV/atom)",
        "formation energy: DFT (eV/atom)",
        "above the DFT labels' own hull (eV/atom)",
        "largest force (eV/Å)",
        "remark",
    )
    header = "<tr><th class='text'>crystal</th>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    levels = sorted({value.level_of_theory for _, _, label in promoted for value in label.properties.values()})
    note = (
        "DFT labels are of another level of theory: they are compared here and train nothing. Formation energies are against the elements "
        "at the same settings, uncorrected. The hull is that of these labels and the elements alone, because no known phases were "
        "calculated at this level: zero does not say stable. The force is what DFT finds at the potential's geometry. Levels: "
    )
    table_text = f"<div class='scroll'><table><thead>{header}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    return f"<h2>Checked with density-functional theory</h2>{table_text}<p class='note'>{note}{escape('; '.join(levels))}</p>"


def _provenance(campaign: Campaign, state: State) -> str:
    targets = (f"{figures.axis_title(name)} {target.describe()}" for name, target in campaign.objective.targets.items())
    rows = {"objective": "; ".join(targets), "seed": str(campaign.seed), "campaign": campaign.hash}
    if state.start is not None:
        potential = state.start.facts["potential"]
        weights = f"{potential['level_of_theory']}; sha256 {potential['sha256'][:12]}"
        rows["potential"] = f"{potential['name']} ({weights}): {potential['reason']}"
        rows["versions"] = ", ".join(f"{name} {number}" for name, number in state.start.facts["versions"].items())
    properties = [item for _, _, label in state.labelled() for item in label.properties.items()]
    levels = sorted({f"{name}: {value.level_of_theory}" for name, value in properties})
    rows["levels of theory"] = "; ".join(levels)
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows.items()) + "</dl>"


def _number(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:z.3f}"


def _formula(text: str) -> str:
    return "".join(f"<sub>{character}</sub>" if character.isdigit() else escape(character) for character in text)


def _main(run: Path) -> None:
    """Write the report of the run in folder RUN again."""
    import typer

    from al_crystal.config import ConfigError, load
    from al_crystal.history import HistoryError, read
    from al_crystal.results import ranking

    try:
        campaign = load(run / "campaign.yaml").model_copy(update={"output": run.parent, "name": run.name})
        state = read(run / "history.jsonl")
        typer.echo(write_report(campaign, state, ranking(campaign, state)))
    except (ConfigError, HistoryError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    import typer

    typer.run(_main)
