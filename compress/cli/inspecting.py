"""What `inspect` shows: a config before training, an artifact after it."""

import pathlib
from typing import Any

import jax

import compress.transform as transforms
from compress.config import Config
from compress.export import read_manifest
from compress.schedule import build_transform, post_training, stage_starts
from compress.sites import Site, Sites, find_sites
from compress.task import build_model, example_inputs, load_task
from compress.transform import Transform, chain


def inspect_config(config: Config) -> str:
    """The sites of a config's model, what will happen to each, and predictions.

    Nothing is trained; rules that match nothing are found here.
    """
    task = load_task(config.task)
    model = build_model(task, config.task, config.model, jax.random.key(0))
    forward = model.forward
    params, model_state = jax.eval_shape(lambda: (model.params, model.model_state))
    inputs = example_inputs(task, 1)
    sites = find_sites(forward, params, model_state, *inputs)
    transform = _whole_transform(config)
    transforms.init(forward, transform, params, model_state, *inputs)
    plans = dict(transform.plan(sites)) if transform.plan else {}
    return "\n".join(
        [
            f"{config.name}: {config.task}, {stage_starts(config)[-1]} steps",
            *_stage_lines(config),
            "",
            sites.table(plans),
            "",
            *_predictions(config, sites, plans, params),
        ]
    )


def _whole_transform(config: Config) -> Transform:
    """Training and PTQ; the teacher is not needed to say what happens to sites."""
    stages = tuple(s.model_copy(update={"distill": None}) for s in config.stages)
    trained = build_transform(config.model_copy(update={"stages": stages}))
    setting = config.export.quantize
    return trained if setting is None else chain(trained, post_training(setting))


def _stage_lines(config: Config) -> list[str]:
    lines = []
    for start, stage in zip(stage_starts(config), config.stages):
        acting = [
            f"{name} ({', '.join(f'{k}={v}' for k, v in setting.model_dump().items())})"
            for name in ("prune", "quantize", "distill")
            if (setting := getattr(stage, name)) is not None
        ]
        end = start + stage.steps
        lines.append(
            f"  {start:>6} to {end:<6} {stage.name}: {'; '.join(acting) or '-'}"
        )
    if config.export.quantize is not None:
        lines.append("  after training: post-training quantization")
    return lines


def _predictions(
    config: Config, sites: Sites, plans: dict[str, str], params: Any
) -> list[str]:
    leaves = jax.tree.leaves(params)
    parameters = sum(leaf.size for leaf in leaves)
    by_path = {str(site.path): site for site in sites.weighted}
    saved = sum(
        _bytes_saved(site) for site in by_path.values() if _is_int8(site, plans)
    )
    float_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    macs = sum(site.macs for site in sites)
    optimizer = 1 if config.optimizer.name == "sgd" else 2
    training = float_bytes * (2 + optimizer)
    return [
        f"parameters: {parameters:,}, {float_bytes:,} bytes",
        f"shipped weights: {float_bytes - saved:,} bytes "
        f"({(float_bytes - saved) / float_bytes:.2f}x), zeros stored",
        f"multiply-accumulates per example: {macs:,}",
        f"parameters, gradients and optimizer in training: {training:,} bytes",
    ]


def _is_int8(site: Site, plans: dict[str, str]) -> bool:
    return "int8 weights" in plans.get(site.name, "")


def _bytes_saved(site: Site) -> int:
    """One byte per weight instead of its width, and four per scale."""
    channels = 1
    for axis in (*site.output, *site.stacked):
        channels *= site.weight_shape[axis]
    return site.weight_size * (site.weight_dtype.itemsize - 1) - 4 * channels


def inspect_artifact(path: pathlib.Path) -> str:
    """What an artifact says of itself."""
    manifest = read_manifest(path)
    sizes, verified = manifest["sizes"], manifest.get("verification", {})
    lines = [
        f"{path}: format {manifest['format_version']}, made with jax "
        f"{manifest.get('jax_version')}, for {', '.join(manifest['platforms'])}",
        f"inputs:  {_signature(manifest['inputs'])}",
        f"outputs: {_signature(manifest['outputs'])}",
        f"weights: {sizes['weights']:,} bytes, "
        f"{sizes['weights'] / sizes['float32']:.2f}x of float32, "
        f"{sizes['parameters']:,} parameters",
        f"figures: {manifest.get('figures', {})}",
        f"compared with the trained forward on {verified.get('items')} items: largest "
        f"difference {verified.get('largest_difference', float('nan')):.1e}",
        "",
    ]
    rows: list[tuple[str, ...]] = [
        ("site", "op", "shape", "MACs", "weight", "activation", "zeros", "note")
    ]
    rows += [_site_row(site) for site in manifest["sites"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
    return "\n".join(lines)


def _signature(specs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{s['dtype']}[{', '.join(map(str, s['shape']))}]" for s in specs)


def _site_row(site: dict[str, Any]) -> tuple[str, ...]:
    total = site["num_weights"]
    zeros = f"{1 - site['num_nonzero'] / total:.1%}" if total else "-"
    widths = {8: "int8", 16: "float16", 32: "float32"}
    return (
        site["name"],
        site["op"],
        "x".join(map(str, site["shape"])) or "-",
        f"{site['macs']:,}",
        widths[site["weight_bits"]] if site["path"] else "-",
        widths[site["activation_bits"]],
        zeros,
        site["reason"] or "",
    )
