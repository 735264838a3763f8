"""What the inner loops would take on Arm processors, by llvm-mca: an estimate, for want of a board.

    cmake --preset aarch64 && cmake --build --preset aarch64 --target internvl_core
    python benchmarks/arm_loops.py [--write]       # --write: results/arm-loops.md

Finds the innermost loops of the GEMV, GEMM and attention kernels in the objects of that build and gives each
to llvm-mca (Debian's llvm-22; older ones have no model of these processors) as it stands, every load a hit in
the first-level cache. Of a template that has many instances, those with the most and with the fewest
multiplications in a pass are shown: a full tile, and what a single row is decoded with.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
RESULT = HERE / "results" / "arm-loops.md"
PASSES = 200
LLVM_VERSIONS = (24, 23, 22, 21, 20, 19)

FAMILIES = (
    "matmul/gemv_kernels",
    "matmul/gemm_kernels",
    "matmul/integer_gemv_kernels",
    "matmul/integer_gemm_kernels",
    "matmul/bfloat16_gemm_kernels",
    "attention/attention_kernels",
    "attention/bfloat16_attention_kernels",
)


@dataclass(frozen=True)
class Processor:
    """One that the code would run on, and the nearest model that LLVM has."""

    name: str
    variants: tuple[str, ...]
    """Of each family it takes the last one that there is."""
    model: str
    dispatch: int
    """Instructions a cycle, by Arm's optimisation guides; LLVM's own figures are lower."""


DOTPROD = ("neon", "neon_dotprod")
PROCESSORS = (
    Processor("Cortex-A72 (Raspberry Pi 4)", ("neon",), "cortex-a72", 3),
    Processor("Cortex-A76 (Raspberry Pi 5)", DOTPROD, "neoverse-n1", 4),
    Processor("Cortex-A78 (Orin)", DOTPROD, "neoverse-n2", 6),
    Processor("Cortex-A710 and later", (*DOTPROD, "neon_i8mm"), "neoverse-n2", 5),
)

FLOAT_PRODUCTS = (
    (re.compile(r"^fmla v\d+\.4s"), 4),
    (re.compile(r"^bfdot v\d+\.4s"), 8),
    (re.compile(r"^bfmmla "), 16),
)
INTEGER_PRODUCTS = (
    (re.compile(r"^[su]dot v\d+\.4s"), 16),
    (re.compile(r"^[su]mmla "), 32),
    (re.compile(r"^sml[as]l2? v\d+\.8h"), 8),
    (re.compile(r"^smull2? v\d+\.8h"), 8),
)
"""Instructions, and how many numbers each multiplies. Scales of integer sums are no such products."""

NO_PRODUCTS = {"finish", "corrections_of", "merge", "exponentiate", "with_count"}
"""Functions, by the beginnings of their names, whose loops multiply no matrices, or again what others do."""

BRANCH = re.compile(r"^(b\.\w+|cbn?z|tbn?z|b)\s+(?:.*,\s*)?(?:0x)?([0-9a-f]+)\s+<")
PREFIX = re.compile(r"internvl::\w+::\(anonymous namespace\)::|internvl::(neon(_\w+)?::)?")


@dataclass(frozen=True)
class Loop:
    family: str
    function: str
    instructions: tuple[str, ...]

    @property
    def multiplications(self) -> int:
        return sum(products(self.family, line) for line in self.instructions)

    @property
    def template(self) -> str:
        """The function without the numbers that it is an instance for."""
        return re.sub(r"\b\d+\b", "#", self.function)


@dataclass(frozen=True)
class Estimate:
    """Cycles of a pass."""

    cycles: float
    least: float
    """That the processor's units need for the multiplications alone."""


def products(family: str, instruction: str) -> int:
    patterns = INTEGER_PRODUCTS if "integer" in family else FLOAT_PRODUCTS
    return next((count for pattern, count in patterns if pattern.match(instruction)), 0)


def tool(name: str) -> str:
    for version in LLVM_VERSIONS:
        if found := shutil.which(f"{name}-{version}"):
            return found
    sys.exit(f"{name} of LLVM {LLVM_VERSIONS[-1]} or newer was not found. Debian has it: apt install llvm-22")


def loops_of(objects: Path, family: str) -> Iterator[Loop]:
    """The innermost loops of an object file that multiply."""
    command = [tool("llvm-objdump"), "-d", "--demangle", "--no-show-raw-insn", str(objects)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    function, lines = "", dict[int, str]()
    for line in [*text.splitlines(), "0000 <>:"]:
        if heading := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            yield from innermost(lines, family, readable(function))
            function, lines = heading[1], {}
        elif instruction := re.match(r"^\s*([0-9a-f]+):\s+(.*)$", line):
            lines[int(instruction[1], 16)] = re.sub(r"\s+", " ", instruction[2].split(" //")[0]).strip()


def innermost(lines: dict[int, str], family: str, function: str) -> Iterator[Loop]:
    spans = []
    for address, line in lines.items():
        branch = BRANCH.match(line)
        if branch and int(branch[2], 16) <= address:
            spans.append((int(branch[2], 16), address))
    for first, last in spans:
        if any((a, b) != (first, last) and first <= a and b <= last for a, b in spans):
            continue
        loop = Loop(family, function, tuple(line for at, line in lines.items() if first <= at <= last))
        if loop.multiplications > 0:
            yield loop


def readable(function: str) -> str:
    """`name<arguments>` of a demangled function."""
    name = PREFIX.sub("", function)
    depth = 0
    for i, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0 and i > 0:
            name = name[:i]
            break
    return name.split(" ", 1)[-1] if name.startswith(("void ", "float ", "auto ")) else name


def estimate(loop: Loop, processor: Processor) -> Estimate:
    body = [re.sub(r"(0x)?[0-9a-f]+ <.*>$", ".Lloop", line) for line in loop.instructions]
    cycles = measured([".Lloop:", *body], processor, r"^Total Cycles:\s+(\d+)") / PASSES
    alone = [line for line in body if products(loop.family, line)]
    return Estimate(cycles, measured(alone, processor, r"^Block RThroughput:\s+([\d.]+)"))


def measured(lines: list[str], processor: Processor, figure: str) -> float:
    command = [
        tool("llvm-mca"),
        "-mtriple=aarch64",
        f"-mcpu={processor.model}",
        "-mattr=+dotprod,+i8mm,+bf16,+fullfp16",
        f"-dispatch={processor.dispatch}",
        f"-iterations={PASSES}",
    ]
    run = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True)
    found = re.search(figure, run.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(f"llvm-mca: {run.stderr}")
    return float(found[1])


def chosen(loops: list[Loop]) -> list[Loop]:
    """Of every function its largest loop, which is the one that counts, and of every template the instances
    whose loops have the most and the fewest multiplications."""
    by_function: dict[str, Loop] = {}
    for loop in loops:
        if re.split(r"\W", loop.function)[0] not in NO_PRODUCTS:
            largest = by_function.setdefault(loop.function, loop)
            if loop.multiplications > largest.multiplications:
                by_function[loop.function] = loop
    by_template: dict[str, list[Loop]] = {}
    for loop in by_function.values():
        by_template.setdefault(loop.template, []).append(loop)
    kept: list[Loop] = []
    for some in by_template.values():
        some.sort(key=lambda loop: loop.multiplications)
        kept += some[-1:] if len(some) == 1 else [some[-1], some[0]]
    return kept


def rows(build: Path, processor: Processor) -> Iterator[str]:
    for family in FAMILIES:
        variant, file = objects_of(build, family, processor)
        if "bfloat16" in family and variant != "neon_i8mm":
            continue  # not taken where nothing multiplies bf16
        for loop in chosen(list(loops_of(file, family))):
            found = estimate(loop, processor)
            count = loop.multiplications
            yield (
                f"| `{variant}` | {family.split('/')[1][:-8]}: `{loop.function}` | {count} "
                f"| {len(loop.instructions) / count:.3f} | {found.cycles / count:.4f} "
                f"| {found.least / count:.4f} | {100 * found.least / found.cycles:.0f} % |"
            )


def objects_of(build: Path, family: str, processor: Processor) -> tuple[str, Path]:
    for variant in reversed(processor.variants):
        pattern = f"csrc/**/internvl_core_kernels_{variant}.dir/kernels/{family}.cpp.o"
        for file in build.glob(pattern):
            return variant, file
    sys.exit(f"{build} has no kernels/{family}.cpp.o. First: cmake --build --preset aarch64")


def report(build: Path) -> str:
    version = Path(tool("llvm-mca")).name.removeprefix("llvm-mca-")
    lines = [
        "# The inner loops on Arm, estimated",
        "",
        f"By `python benchmarks/arm_loops.py --write` with llvm-mca {version}, not on a board.",
        "A pass is one turn of a loop; instructions and cycles are per multiplication, the least is what the",
        "units would take for the multiplications alone. Every load hits the first-level cache, as weights",
        "do not while a token is decoded: that is bound by memory.",
        "LLVM schedules Cortex-A76 and A78 as if they were A57; nearer are Neoverse N1, which is an A76, and",
        "Neoverse N2, which has the A78's two vector units, three loads and more.",
    ]
    for processor in PROCESSORS:
        lines += [
            "",
            f"## {processor.name}, as {processor.model}, {processor.dispatch} instructions a cycle",
            "",
            "| variant | loop | multiplications a pass | instructions | cycles | least | of the least |",
            "|---|---|---|---|---|---|---|",
            *rows(build, processor),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=REPOSITORY / "build" / "aarch64")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = report(options.build)
    if options.write:
        RESULT.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
