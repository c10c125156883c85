"""Estimates as tables for people: nothing wider than 100 columns, a unit at every number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tap_platform.estimate.figures import (
    Bill,
    CheckpointSize,
    Estimate,
    Feed,
    Memory,
    NodesTaken,
    Pace,
    Way,
)
from tap_platform.estimate.sizes import as_bytes, as_flops, as_hours, as_seconds

GIBI = 2**30


def print_estimate(told: Estimate, console: Console) -> None:
    """Print what a job takes, warnings last, where they are seen."""
    name = f"{told.profile} ({told.description})" if told.description else told.profile
    console.print(f"\n[bold]On {escape(name)}[/]\n")
    console.print(_nodes(told.nodes))
    console.print(_memory(told))
    console.print(_time(told))
    console.print(_data(told.feed, told.checkpoint))
    _print_list(console, "Taken for granted", told.assumptions)
    _print_list(console, "[red]Warnings[/]", told.warnings)
    if told.ways:
        console.print(_ways(told.ways))
    elif not told.memory.fits:
        console.print("No strategy, smaller micro-batch or offloading makes it fit.")


def _table(title: str, *columns: str) -> Table:
    """The first column and the last to the left, numbers between them to the right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        middle = 0 < number < len(columns) - 1
        table.add_column(column, justify="right" if middle else "left", overflow="fold")
    return table


def _nodes(nodes: Sequence[NodesTaken]) -> Table:
    table = _table("Nodes", "group", "pods", "workers a pod", "CPUs", "memory", "GPUs a pod")
    for each in nodes:
        least, most = each.pods_least, each.pods_most
        told = [each.group, *(["spot"] if each.spot else [])]
        told += ["stands in"] if each.stands_in else []
        table.add_row(
            ", ".join(told),
            str(most) if least == most else f"{least} to {most}",
            str(each.workers_per_pod),
            str(each.cpus_per_pod),
            f"{each.memory_bytes_per_pod / GIBI:,.0f} GiB",
            f"{each.gpus_per_pod} {each.gpu}" if each.gpu else "none",
        )
    return table


def _memory(told: Estimate) -> Table:
    memory, what = told.memory, "one GPU" if told.memory.on_gpu else "one worker"
    table = _table(f"Memory of {what}, {memory.highest}", "part", "size", "of it", "what")
    for part, size, meaning in _parts(memory):
        table.add_row(part, as_bytes(size), f"{size / memory.total:.0%}", meaning)
    table.add_section()
    fits = "" if memory.available is None else f"of {as_bytes(memory.available)}: "
    fits += "fits" if memory.fits else "[red]does not fit[/]"
    table.add_row("in all", as_bytes(memory.total), "", fits)
    table.add_section()
    table.add_row("activations", as_bytes(told.activations.kept), "", "without checkpointing")
    table.add_row(
        "", as_bytes(told.activations.recomputed), "", "with model.activation_checkpointing"
    )
    if memory.on_gpu and memory.host:
        table.add_row("host memory", as_bytes(memory.host), "", "a worker, by scale.offload")
    return table


def _parts(memory: Memory) -> Iterable[tuple[str, int, str]]:
    rows = (
        ("weights", memory.weights, "float32, trained and resting"),
        ("gradients", memory.gradients, "float32" if memory.gradients else "none at this moment"),
        ("optimizer", memory.optimizer, "AdamW's moments, and what ZeRO steps"),
        ("moving average", memory.average, "optimizer.ema_decay"),
        ("activations", memory.activations, "of one micro-batch"),
        ("buffers", memory.buffers, "buckets, gathered weights, AdamW's work"),
        ("batches", memory.batches, "this one, the next one, the vocabulary"),
        ("offloaded", 0 if memory.on_gpu else memory.host, "scale.offload: the same memory here"),
        ("beside torch", memory.allowance, _beside(memory)),
    )
    return [each for each in rows if each[1] or each[0] == "gradients"]


def _beside(memory: Memory) -> str:
    return "CUDA, NCCL, idle fragments: assumed" if memory.on_gpu else "the process: assumed"


def _time(told: Estimate) -> Table:
    table = _table("Time and cost", "", "")
    for name, value in (*_pace_rows(told), *_bill_rows(told.bill, told.pace)):
        table.add_row(name, value)
    table.show_header = False
    return table


def _pace_rows(told: Estimate) -> list[tuple[str, str]]:
    pace, work = told.pace, told.work
    rows = [
        (
            "work of a step",
            f"{as_flops(work.flops_per_step)}, {as_flops(work.flops_per_worker)} a worker",
        ),
    ]
    if pace.compute_seconds is not None:
        rows.append(("computation", as_seconds(pace.compute_seconds)))
    exchange = pace.communication_seconds
    if exchange is not None:
        rows.append(
            ("communication", f"{as_seconds(exchange)} for {as_bytes(pace.sent_bytes)} a worker")
        )
    else:
        rows.append(
            ("communication", f"{as_bytes(pace.sent_bytes)} a worker; its time is not known")
        )
    if pace.step_seconds is None:
        return [*rows, ("a step", pace.basis)]
    return [
        *rows,
        ("a step", as_seconds(pace.step_seconds)),
        ("basis", pace.basis),
        ("all steps", as_hours(pace.hours or 0)),
    ]


def _bill_rows(bill: Bill | None, pace: Pace) -> list[tuple[str, str]]:
    if bill is None:
        return [("cost", "the profile has no prices")]
    unit = bill.currency
    spot = " at spot prices, without what is done again when nodes go" if bill.spot else ""
    rows = [
        (
            "price",
            f"{bill.per_hour:,.2f} {unit} an hour, {bill.head_per_hour:,.2f} of it the head's",
        )
    ]
    if bill.on_stand_ins is not None:
        rows.append(("on stand-ins", f"{bill.on_stand_ins:,.2f} {unit} an hour"))
    if bill.total is None:
        return [*rows, ("cost", "not known, for the time is not")]
    return [*rows, ("cost", f"{bill.total:,.0f} {unit}{spot}")]


def _data(feed: Feed, checkpoint: CheckpointSize) -> Table:
    table = _table("Data and checkpoints", "", "")
    for name, value in (*_feed_rows(feed), *_checkpoint_rows(checkpoint)):
        table.add_row(name, value)
    table.show_header = False
    return table


def _feed_rows(feed: Feed) -> list[tuple[str, str]]:
    cost = 1000 * feed.cpu_seconds_per_image
    rows = [
        (
            "an image",
            f"{as_bytes(feed.bytes_per_image)} ({feed.bytes_basis}), {cost:.3g} ms of a CPU",
        )
    ]
    if feed.images_per_second is None or feed.cpus_needed is None:
        most = feed.cpus_there / feed.cpu_seconds_per_image
        return [*rows, ("CPUs", f"{feed.cpus_there:,} feed at most {most:,.0f} images/s")]
    rate = as_bytes(feed.bytes_per_second or 0)
    return [
        *rows,
        ("reading", f"{feed.images_per_second:,.4g} images/s, {rate}/s from storage"),
        ("CPUs", f"{feed.cpus_needed:,.3g} feed it, {feed.cpus_there:,} are there"),
    ]


def _checkpoint_rows(size: CheckpointSize) -> list[tuple[str, str]]:
    return [
        ("a checkpoint", f"{as_bytes(size.total)}, {as_bytes(size.per_worker)} of it a worker's"),
        ("copying it", f"{as_seconds(size.copy_seconds)} of training"),
        (
            "writing it",
            f"{as_seconds(size.write_seconds)} beside it, at {as_bytes(size.bandwidth)}/s",
        ),
        ("storage", f"{as_bytes(size.total * size.kept)} for the {size.kept} that stay"),
    ]


def _ways(ways: Sequence[Way]) -> Table:
    table = _table("What would fit", "type", "takes", "and costs")
    for each in ways:
        table.add_row("\n".join(each.overrides), as_bytes(each.total), each.costs)
    return table


def _print_list(console: Console, title: str, sentences: Sequence[str]) -> None:
    if not sentences:
        return
    console.print(f"\n{title}")
    lines = Table.grid(padding=(0, 1))
    for each in sentences:
        lines.add_row("  -", escape(each))
    console.print(lines)
