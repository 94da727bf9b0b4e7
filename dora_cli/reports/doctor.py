"""What ``dora doctor`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from dora_cli.reports.units import size
from dora_cli.wording import plural

_GOOD, _WARN, _BAD = "green", "yellow", "bold red"
_HUB = {"reachable": _GOOD, "unreachable": _WARN, "offline": "", "unknown": _WARN}
Row = tuple[str, Text]


def print_doctor(console: Console, found: Mapping[str, Any]) -> None:
    """Prints what `dora_cli.doctor.examine` has found; what is broken comes last, where the eye is."""
    python = found["python"]
    _section(
        console,
        f"dora {found['dora']}",
        [("python", Text(f"{python['version']}, {python['executable']}")), ("system", Text(found["platform"]))],
    )
    _section(console, "Packages", map(_package, found["packages"]))
    _section(console, "Devices", map(_device, found["devices"]))
    _section(console, "Threads", _threads(found["threads"]))
    _section(console, "Folders", map(_folder, found["caches"]))
    _section(console, "Extras", map(_extra, found["extras"]))
    _section(console, "Network and Java", [_hub(found["hub"]), _java(found["java"])])
    console.print()
    problems = found["problems"]
    if not problems:
        console.print(Text("Nothing that dora needs is broken.", style=_GOOD))
        return
    console.print(
        Text(
            f"{plural(len(problems), 'problem')}: dora cannot work before "
            f"{'this is' if len(problems) == 1 else 'they are'} fixed",
            style=_BAD,
        )
    )
    for problem in problems:
        console.print(Text(f"  {problem}"), soft_wrap=True)


def _section(console: Console, title: str, rows: Iterable[Row]) -> None:
    rows = list(rows)
    if not rows:
        return
    if title.partition(" ")[0] != "dora":
        console.print()
    console.print(Text(title, style="bold"))
    width = max(len(label) for label, _ in rows)
    for label, value in rows:  # not a table: a line that is copied into a report stays one line
        console.print(Text.assemble("  ", (f"{label:<{width}}", "dim"), "  ", value), soft_wrap=True)


def _package(package: Mapping[str, Any]) -> Row:
    if package["problem"]:
        return package["name"], Text(f"{package['version'] or 'missing'}: {package['problem']}", style=_BAD)
    return package["name"], Text(package["version"])


def _device(device: Mapping[str, Any]) -> Row:
    said = [device["name"]] if device["name"] else []
    if device["memory_bytes"] is not None:
        said.append(
            size(device["memory_bytes"])
            + (f" ({size(device['free_bytes'])} free)" if device["free_bytes"] is not None else "")
        )
    if device["precisions"]:
        said.append(" ".join(device["precisions"]))
    return device["device"], Text.assemble(
        ", ".join(said), (f"{'; ' if said else ''}{device['note']}" if device["note"] else "", _WARN)
    )


def _threads(threads: Mapping[str, Any]) -> Iterable[Row]:
    if threads["torch"] is not None:
        yield "PyTorch", Text(plural(threads["torch"], "thread"))
        yield (
            "auto",
            Text(f"1 for a tiny model, {threads['large']} for RoBERTa-base, {threads['most']} at most (train.threads)"),
        )
        for name, value in threads["environment"].items():
            yield name, Text(value)
    if threads["load"] is not None:
        latest, cores = threads["load"][0], threads["cores"]
        busy = f"; more than {plural(cores, 'core')} can do, so everything takes longer" if latest > cores else ""
        averages = ", ".join(f"{average:.2f}" for average in threads["load"])
        yield "load", Text.assemble(f"{averages} (averages of 1, 5 and 15 minutes)", (busy, _WARN))


def _folder(folder: Mapping[str, Any]) -> Row:
    where = [folder["path"]] if folder["path"] else []
    if folder["problem"]:
        problem = (folder["problem"], _BAD if folder["needed"] else _WARN)
        return folder["name"], Text.assemble(*where, ": " if where else "", problem)
    state = "writable" if folder["exists"] else "not there yet, can be made"
    return folder["name"], Text(f"{folder['path']}: {state}, {size(folder['free_bytes'])} free")


def _extra(extra: Mapping[str, Any]) -> Row:
    if not extra["missing"]:
        return extra["name"], Text("installed", style=_GOOD)
    return extra["name"], Text.assemble((f"without {', '.join(extra['missing'])}", _WARN), f"; {extra['install']}")


def _hub(hub: Mapping[str, Any]) -> Row:
    after = f" in {hub['seconds']:.1f} s" if hub["state"] == "reachable" and hub["seconds"] is not None else ""
    detail = f" ({hub['detail']})" if hub["detail"] else ""
    return "hub", Text.assemble(
        f"{hub['endpoint']}: " if hub["endpoint"] else "", (hub["state"], _HUB[hub["state"]]), f"{after}{detail}"
    )


def _java(java: Mapping[str, Any]) -> Row:
    if java["problem"]:
        return "METEOR", Text.assemble(("cannot be computed", _WARN), f": {java['problem']}")
    return "METEOR", Text(f"{java['version']}, {java['path']}")
