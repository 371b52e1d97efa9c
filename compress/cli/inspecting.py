"""What `inspect` shows: a config before training, an artifact after it."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

import compress.transform as transforms
from compress.compare import predicted_latencies
from compress.config import Config
from compress.export import read_manifest
from compress.export.scales import described
from compress.interpret import Quantized
from compress.schedule import post_training, stage_starts
from compress.sites import Sites, find_groups, find_sites, flatten_parameters
from compress.task import Task, example_inputs, load_task
from compress.train import Entered, check_schedule, foreseen_phases
from compress.transform import Transform, chain


def inspect_config(config: Config, *, latency: bool = False) -> str:
    """The sites of a config's model, what will happen to each, and predictions.

    Nothing is trained; whatever a trace can tell is wrong is found here.

    Args:
      config: Of one run.
      latency: Whether to time artifacts with units removed, untrained.
    """
    task = load_task(config.task, config.data)
    check_schedule(config, task)
    phases = foreseen_phases(config, task)
    one = example_inputs(task, 1)
    sites = [_sites_of(phase, one) for phase in phases]
    setting = config.export.quantize
    after = [] if setting is None else [post_training(setting)]
    plans = _plans(phases, sites, after)
    return "\n".join(
        [
            f"{config.name}: {config.task}, {stage_starts(config)[-1]} steps",
            *_stage_lines(config),
            "",
            sites[0].table(plans),
            "",
            *(line for phase in phases for line in _group_lines(phase, one)),
            *_predictions(config, phases, sites, _shipped(phases[-1], after, one)),
            *(_latency_lines(config, task, phases) if latency else []),
        ]
    )


def _sites_of(phase: Entered, inputs: Any) -> Sites:
    model = phase.model
    return find_sites(model.forward, model.params, model.model_state, *inputs)


def _plans(
    phases: Sequence[Entered], sites: Sequence[Sites], after: Sequence[Transform]
) -> dict[str, str]:
    """What happens to each site, in the order of phases, each thing once."""
    plans: dict[str, dict[str, None]] = {}
    for index, phase in enumerate(phases):
        last = after if index == len(phases) - 1 else ()
        transform = chain(phase.transform, *last)
        plan = transform.plan(sites[index]) if transform.plan else {}
        for name, text in plan.items():
            plans.setdefault(name, {}).update(dict.fromkeys(text.split("; ")))
    return {name: "; ".join(parts) for name, parts in plans.items()}


def _group_lines(phase: Entered, inputs: Any) -> list[str]:
    """The groups of units of a phase that removes some."""
    model = phase.model
    if phase.groups is None:
        return []
    groups = find_groups(
        model.forward, model.params, *inputs, model_state=model.model_state
    )
    return [f"groups of units, for {phase.phase.stages[-1]}:", str(groups), ""]


def _shipped(last: Entered, after: Sequence[Transform], inputs: Any) -> int:
    """Bytes of the weights as they are shipped, zeros stored."""
    model, transform = last.model, chain(last.transform, *after)

    def arrays(params: Any, model_state: Any) -> tuple[list[Any], list[Any]]:
        state = transforms.init(model.forward, transform, params, model_state, *inputs)
        end = state._replace(step=state.step + last.phase.end)
        seen = transforms.parameters(transform, params, end)
        _, leaves, _ = flatten_parameters(seen)
        boxes = [leaf for leaf in leaves if isinstance(leaf, Quantized)]
        rest = [leaf for leaf in leaves if not isinstance(leaf, Quantized)]
        return [box.qvalue for box in boxes], [*rest, *(box.scale for box in boxes)]

    integers, others = jax.eval_shape(arrays, model.params, model.model_state)
    return sum(x.size for x in integers) + _bytes(others)


def _latency_lines(config: Config, task: Task, phases: list[Entered]) -> list[str]:
    """What removing units may do to the latency, with untrained weights."""
    batch = config.export.static_batch
    found = predicted_latencies(config, task, phases)
    return [
        f"latency at batch {batch} once {stage} has removed units, untrained, on this "
        f"machine: {ratio:.2f}x"
        for stage, ratio in found.items()
    ] or ["latency: no stage removes units; nothing else is predicted"]


def _stage_lines(config: Config) -> list[str]:
    lines = []
    for start, stage in zip(stage_starts(config), config.stages):
        acting = [
            f"{name} {_settings(getattr(stage, name))}"
            for name in ("prune", "shrink", "quantize", "distill")
            if getattr(stage, name) is not None
        ]
        what = "; ".join(acting) or "-"
        lines.append(f"  {start:>6} to {start + stage.steps:<6} {stage.name}: {what}")
    if config.export.quantize is not None:
        lines.append("  after training: post-training quantization")
    return lines


def _settings(setting: Any) -> str:
    values = setting.model_dump(exclude_defaults=True)
    return f"({', '.join(f'{k}={v}' for k, v in values.items()) or 'as usual'})"


def _predictions(
    config: Config, phases: Sequence[Entered], sites: Sequence[Sites], shipped: int
) -> list[str]:
    """Sizes of the parameters, of what is shipped, and of what training holds."""
    whole = jax.tree.leaves(phases[0].model.params)
    left = jax.tree.leaves(phases[-1].model.params)
    float_bytes = _bytes(whole)
    moments = 1 if config.optimizer.name == "sgd" else 2
    macs = [sum(site.macs for site in own) for own in (sites[0], sites[-1])]
    lines = []
    if any(boundary.keep for boundary in phases[-1].boundaries):
        lines = [
            f"predicted once units are removed: parameters {_count(left):,} "
            f"({_count(left) / _count(whole):.2f}x), multiply-accumulates per example "
            f"{macs[1]:,} ({macs[1] / macs[0]:.2f}x)"
        ]
    return [
        f"parameters: {_count(whole):,}, {float_bytes:,} bytes",
        f"shipped weights: {shipped:,} bytes ({shipped / float_bytes:.2f}x), "
        "zeros stored",
        f"multiply-accumulates per example: {macs[0]:,}",
        "parameters, gradients and optimizer in training: "
        f"{float_bytes * (2 + moments):,} bytes",
        *lines,
    ]


def _count(leaves: list[Any]) -> int:
    return sum(leaf.size for leaf in leaves)


def _bytes(leaves: list[Any]) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def inspect_artifact(path: pathlib.Path) -> str:
    """What an artifact says of itself."""
    manifest = read_manifest(path)
    sizes, verified = manifest["sizes"], manifest.get("verification", {})
    lines = [
        f"{path}: format {manifest['format_version']}, made with jax "
        f"{manifest.get('jax_version')}, for {', '.join(manifest['platforms'])}",
        f"inputs:  {described(manifest['inputs'])}",
        f"outputs: {described(manifest['outputs'])}",
        f"weights: {sizes['weights']:,} bytes, "
        f"{sizes['weights'] / max(1, sizes['float32']):.2f}x of float32, "
        f"{sizes['parameters']:,} parameters",
        f"figures: {manifest.get('figures', {})}",
        f"compared with the trained forward on {verified.get('items')} items: largest "
        f"difference {verified.get('largest_difference', float('nan')):.1e}",
        "",
    ]
    rows: list[tuple[str, ...]] = [
        ("site", "op", "shape", "MACs", "weight", "activation", "zeros", "rule", "note")
    ]
    lowering = manifest["programs"]["static"]["lowering"]
    rows += [_site_row(site, lowering) for site in manifest["sites"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
    return "\n".join(lines)


def _kind(bits: int) -> str:
    return f"int{bits}" if bits <= 8 else f"float{bits}"


def _site_row(site: dict[str, Any], lowering: dict[str, Any]) -> tuple[str, ...]:
    total = site["num_weights"]
    zeros = f"{1 - site['num_nonzero'] / total:.1%}" if total else "-"
    return (
        site["name"],
        site["op"],
        "x".join(map(str, site["shape"])) or "-",
        f"{site['macs']:,}",
        _kind(site["weight_bits"]) if site["path"] else "-",
        _kind(site["activation_bits"]),
        zeros,
        lowering.get(site["name"], {}).get("rule", "-"),
        site["reason"] or "",
    )
