"""The figures in docs/: what stands between `<!-- bench: NAME -->` and `<!-- end -->` is written from the results."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.claims import CLAIMS, HEADER, machine_of, result_of, row
from finetune.artifacts import markdown_table

BLOCK = re.compile(r"(<!-- bench: ([a-z_ ]+(?:, [a-z ]+)?) -->\n).*?(<!-- end -->)", re.DOTALL)
GROWING = ("preprocess-512", "tokenize", "latents", "train-fp16", "features")  # with the number of images
Result = Mapping[str, Any]


def filled(page: str, folder: Path) -> str:
    """The page with each of its blocks written anew; a block names results and, after a comma, one of their tables."""

    def written(found: re.Match[str]) -> str:
        results = {name: result_of(folder, name) for name in found[2].partition(",")[0].split()}
        measured = {name: result for name, result in results.items() if result}
        own = OWN_TABLES.get(found[2]) if measured.keys() == results.keys() else None
        shown = own(**measured) if own else _claims(results)
        origins = " ".join(map(_origin, measured, measured.values()))
        return found[1] + "\n\n".join(filter(None, (shown, origins))) + f"\n{found[3]}"

    return BLOCK.sub(written, page)


def _claims(results: Mapping[str, Result | None]) -> str:
    rows = [row(claim, results[claim.bench]) for claim in CLAIMS if claim.bench in results]
    if not rows:
        return "Not measured."
    columns = [column for column in zip(HEADER, *rows, strict=True) if any(column[1:])]
    header, *body = zip(*columns, strict=True)
    return markdown_table(header, body)


def _origin(name: str, result: Result) -> str:
    return f"[{name}.json](../bench/results/{name}.json): {result['date']}, {machine_of(result)}."


def _full_size(full_size: Result, model_memory: Result) -> str:
    def rows() -> Iterator[list[str]]:
        many, few = (full_size["images"][part] for part in ("full", "tenth"))
        for stage, growth in full_size["memory_full_over_tenth"].items():
            yield cells(stage, many, few, full_size["runs"]["full"][stage], growth)
        for stage in ("latents", "features"):
            runs = model_memory[stage]["runs"]
            few, many = sorted(map(int, runs))
            yield cells(stage, many, few, runs[str(many)], model_memory[stage]["memory_many_over_few"])

    def cells(stage: str, many: int, few: int, run: Mapping[str, float], growth: float) -> list[str]:
        costs = [f"{run[key]:,.0f}" for key in ("core_seconds", "seconds", "memory_mib")]
        return [f"`{stage}`", f"{many:,}", *costs, f"{growth:.2f} of {few:,}"]

    header = ("stage", "pictures", "core seconds", "seconds", "MiB of the largest process", "over those of fewer")
    return markdown_table(header, rows())


def _noop_speed(noop_speed: Result) -> str:
    def cells(command: str) -> list[str]:
        result = noop_speed[command]
        seconds = [f"{result['seconds'][name]:.2f}" for name in ("loose", "shards", "one file")]
        ratios = [result[key] for key in ("times_as_fast", "at_most_times_as_fast")]
        return [
            f"`dvc {command}`",
            *seconds,
            *(_spread(each) for each in ratios),
        ]

    header = (
        "seconds",
        "a file for each picture",
        "shards",
        "one file",
        "shards, times as fast",
        "one file, times as fast",
    )
    return markdown_table(header, map(cells, ("repro", "status")))


def _spread(found: Mapping[str, float]) -> str:
    return f"{found['median']:.3g} ({found['min']:.3g} to {found['max']:.3g})"


def _resizers(resizers: Result) -> str:
    sets = [resizers["sets"][name] for name in ("photographs", "mosaics of photographs, 2048x1536")]

    def cells(found: Result) -> list[str]:
        speed = f"{found['times_as_fast']['median']:.2f}"
        if "psnr" not in found:  # Pillow's own, with which the others are compared
            return [speed, "", ""]
        mean, least = found["psnr"]["mean"], found["psnr"]["min"]
        return [speed, "equal" if least == 100 else f"{mean}, {least} dB", f"{found['frechet_distance']:.4f}"]

    header = [""]
    for name, each in zip(("photographs", "mosaics of them, 2048x1536"), sets, strict=True):
        header += [f"{each['pictures']} {name}: speed", "PSNR mean, least", "distance"]
    rows = [[name, *(cell for each in sets for cell in cells(each["resizers"][name]))] for name in sets[0]["resizers"]]
    halves = ["two random halves of Pillow's"]
    for each in sets:
        halves += ["", "", f"{each['frechet_distance_of_halves']:.0f}"]
    return markdown_table(header, [*rows, halves])


def _foretold(scaling: Result) -> str:
    def cells(stage: str) -> list[str]:
        measures = map(scaling["stages"][stage].get, ("core_seconds", "memory_mib", "output_mb"))
        return [stage, *(f"{each['predicted']:,.0f} / {each['measured']:,.0f}" for each in measures)]

    return markdown_table(("stage", "core seconds", "memory, MiB", "output, MB"), map(cells, scaling["stages"]))


def _by_images(scaling: Result) -> str:
    def cell(each: Mapping[str, float]) -> str:
        units = (("core_hours", "core h"), ("gpu_hours", "GPU h"), ("disk_gb", "GB"))
        values = [(each[key], unit) for key, unit in units if each[key] >= 0.001]
        return ", ".join(f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}" for value, unit in values)

    sizes = sorted(map(int, scaling["by_images"]))
    rows = [[stage, *(cell(scaling["by_images"][str(size)][stage]) for size in sizes)] for stage in GROWING]
    return markdown_table(("stage", *(f"{size:,}" for size in sizes)), rows)


def _by_gpus(scaling: Result) -> str:
    def cells(count: int) -> list[str]:
        row = scaling["by_gpus"][str(count)]
        return [
            f"{count}",
            f"{row['latents_hours']:.2f}",
            f"{row['train_hours']:.2f}",
            f"{row['train_efficiency']:.0%}",
        ]

    header = ("GPUs", "latents, hours", "training, hours", "of these computing")
    return markdown_table(header, map(cells, sorted(map(int, scaling["by_gpus"]))))


OWN_TABLES: dict[str, Callable[..., str]] = {
    "full_size model_memory": _full_size,
    "noop_speed": _noop_speed,
    "resizers": _resizers,
    "scaling, foretold": _foretold,
    "scaling, by images": _by_images,
    "scaling, by gpus": _by_gpus,
}
