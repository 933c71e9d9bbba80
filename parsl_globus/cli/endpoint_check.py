"""`parsl-globus endpoint check`: what a configuration amounts to, and what this machine lacks for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import click

from parsl_globus.cli.extras import needs_extra

if TYPE_CHECKING:
    from parsl_globus.endpoint.config.model import EndpointModel
    from parsl_globus.endpoint.multiuser.site import Site


@dataclass
class _Report:
    """What is shown, under the names of `--json`."""

    model: dict[str, Any] = field(default_factory=dict)
    parsl_objects: str | None = None
    submit_script: str | None = None
    findings: list[dict[str, Any]] = field(default_factory=list)
    note: str | None = None

    @property
    def errors(self) -> int:
        return sum(1 for finding in self.findings if finding["severity"] == "error")


@click.command("check")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
@click.pass_context
def check(context: click.Context, name: str, as_json: bool) -> None:
    """Show what the configuration of NAME amounts to, down to the submit script; nothing is started.

    At the end it tells what this machine lacks. Errors would stop the endpoint or each of its blocks from starting:
    the exit code is 1 then. Warnings may not, since compute nodes can have what this machine lacks; with these only,
    it is 0.
    """
    from parsl_globus.endpoint.folder import find

    with needs_extra("endpoint"):
        from parsl_globus.endpoint.multiuser.site import load_site

    folder = find(name)
    report = _report(load_site(folder), str(folder.config))
    if as_json:
        click.echo(json.dumps({**asdict(report), "errors": report.errors}, indent=2))
    else:
        _show(report)
    context.exit(1 if report.errors else 0)


def _report(site: Site, config_file: str) -> _Report:
    from parsl_globus.endpoint.config.load import parse_config
    from parsl_globus.errors import ConfigError
    from parsl_globus.wire.documents import StartArguments

    report = _described(site.config, site.config_text, config_file)
    if site.plain:
        return report
    file = str(site.template_file)
    try:
        nobody = StartArguments.model_construct(name="check", amqp_creds=cast("Any", None))
        text = site.user_config(nobody)
    except ConfigError as exc:
        # Options of a user may be needed: that is nothing wrong.
        report.note = f"User endpoints are made from the template {file}; without options it can't be shown: {exc}"
        return report
    made = _described(parse_config(text, file=file), text, file)
    made.note = f"User endpoints are made from the template {file}; this is one without options."
    made.findings = report.findings + made.findings
    return made


def _described(config: EndpointModel, text: str, file: str) -> _Report:
    from parsl_globus.endpoint.config.describe import describe
    from parsl_globus.endpoint.config.load import line_of
    from parsl_globus.endpoint.config.machine import findings

    report = _Report(model=config.model_dump(mode="json", exclude_none=True))
    found = [asdict(finding) for finding in findings(config)]
    if config.engine is not None:
        description = describe(config.engine)
        report.parsl_objects, report.submit_script = description.executor, description.submit_script
        told = {finding["key_path"] for finding in found}
        for problem in description.problems:
            key_path = problem.key_path or ""
            if key_path not in told:
                message = str(problem).removeprefix(f"{key_path}: ")
                found.append({"severity": "error", "kind": "build", "key_path": key_path, "message": message})
    report.findings = [{**finding, "file": file, "line": line_of(text, finding["key_path"])} for finding in found]
    return report


def _show(report: _Report) -> None:
    import yaml

    if report.note is not None:
        click.echo(f"# {report.note}\n")
    click.echo(f"# Model\n{yaml.safe_dump(report.model, sort_keys=False).rstrip()}")
    if report.parsl_objects is not None:
        click.echo(f"\n# Parsl objects\n{report.parsl_objects}")
    if report.submit_script is not None:
        click.echo(f"\n# Submit script of one block\n{report.submit_script.rstrip()}")
    click.echo("\n# This machine")
    for finding in report.findings:
        where = ":".join(str(part) for part in (finding["file"], finding["line"]) if part is not None)
        click.echo(f"{finding['severity']}: {where}: {finding['key_path']}: {finding['message']}")
    if not report.findings:
        click.echo("Nothing is missing.")
