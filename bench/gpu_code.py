"""Loops in the machine code of GPU kernels, recognised by what they do (gpu_static, gpu_model)."""

import re
from dataclasses import dataclass

INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.x]*)([^;]*);", re.MULTILINE
)


@dataclass(frozen=True)
class Nest:
    """Loops within one another: the innermost one that does most of `work`, and those around it."""

    work: str  # a key of WORK
    trips: tuple[float, ...]  # of all warps through each loop, the innermost first

    # Trips through a loop over taps are given as multiply-adds, of which a compiler puts several
    # into one trip.


# Global memory: loads, stores, and copies to shared memory; bytes of a thread, by modifier.
MEMORY = r"LDG\b|STG\b|LDGSTS\b"
WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}  # else 4

# The instructions by which a loop is recognised. "pixels": a loop that copies, without wide stores.
WORK = {
    "tensor": r"[A-Z]*MMA\b",
    "moves": MEMORY,
    "stores": r"STG\S*\.(64|128|256)\b",
    "fewest stores": r"STG\S*\.(64|128|256)\b",
    "pixels": r"STG(?!\S*\.(64|128|256)\b)",
    "loads": r"LDG\b",
    "global taps": r"FFMA\b",
    "staged columns": r"STS\b",
    "found lines": r"STS\b",
    "summed lines": r"FFMA\b",
    "summed columns": r"FFMA\b",
}
# What else such a loop does, and what it does not; these are innermost. Sums over taps in global
# memory; and in tiles, which are in shared memory: columns copied there, addresses put there, sums
# over these, and sums over columns.
ELSE = {
    "global taps": ("", "LDS STG"),
    "staged columns": ("LDG", "LDS STG FFMA"),
    "found lines": ("LDG LDS", "STG FFMA"),
    "summed lines": ("LDG LDS STS", "STG"),
    "summed columns": ("LDS STG", "LDG STS"),
}


def count(opcodes: list[str], pattern: str) -> int:
    """How many opcodes begin with `pattern`."""
    return sum(re.match(pattern, opcode) is not None for opcode in opcodes)


def moved_bytes(opcode: str) -> int:
    """Bytes of a thread that an instruction moves from or to global memory."""
    if not re.match(MEMORY, opcode):
        return 0
    return next((WIDTHS[m] for m in opcode.split(".")[1:] if m in WIDTHS), 4)


def within(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a loop is a part of another one."""
    return loop != other and other[0] <= loop[0] and loop[1] <= other[1]


@dataclass(frozen=True)
class Code:
    """A kernel's machine code."""

    opcodes: tuple[str, ...]
    loops: tuple[tuple[int, int], ...]  # first and last instruction
    ahead: float  # steps whose copies to shared memory are under way while a warp computes

    @property
    def tensor(self) -> tuple[str, ...]:
        """Tensor-core instructions of the hot loop."""
        first, last = self.chain("tensor")[0]
        inside = self.opcodes[first : last + 1]
        return tuple(opcode for opcode in inside if re.match(WORK["tensor"], opcode))

    @property
    def tensor_share(self) -> float:
        """Tensor-core instructions among those of the hot loop, 0 without any."""
        first, last = self.chain("tensor")[0]
        return round(len(self.tensor) / (last + 1 - first), 3)

    @property
    def per_16_bytes(self) -> float:
        """Instructions for 16 bytes that move from or to global memory; 0 if none do.

        Of the hot loop: that of the tensor cores, or the one that moves most. If it moves none
        itself, of the loop around it. All of a loop's branches count, taken or not.
        """
        for first, last in self.chain("tensor" if self.tensor else "moves"):
            inside = self.opcodes[first : last + 1]
            moved = sum(moved_bytes(opcode) for opcode in inside)
            if moved:
                return round(16 * len(inside) / moved, 1)
        return 0.0

    def chain(self, work: str) -> list[tuple[int, int]]:
        """The innermost loop with most of `work` (or least), those around it, and the kernel."""
        found = [loop for loop in self.loops if self.amount(work, loop)]
        whole = (0, len(self.opcodes) - 1)
        if not found:
            return [whole]
        sign = 1 if work.startswith("fewest") else -1
        first, last = min(
            found, key=lambda loop: (sign * self.amount(work, loop), loop[1] - loop[0])
        )
        around = {loop for loop in self.loops if within((first, last), loop)}
        return [(first, last), *sorted(around, key=lambda loop: loop[1] - loop[0]), whole]

    def amount(self, work: str, loop: tuple[int, int]) -> int:
        """How many instructions of a loop do `work`."""
        inside = list(self.opcodes[loop[0] : loop[1] + 1])
        shared, loads = (count(inside, opcode) > 0 for opcode in ("LDS", "LDG"))
        if work == "pixels":
            if shared or not loads or count(inside, WORK["stores"]):
                return 0
        elif work in ELSE:
            innermost = not any(within(other, loop) for other in self.loops)
            wanted, unwanted = (opcodes.split() for opcodes in ELSE[work])
            has = [all(count(inside, o) for o in wanted)]
            has += [not count(inside, opcode) for opcode in unwanted]
            if not innermost or not all(has):
                return 0
        return count(inside, WORK[work])

    def issued(self, starts: float, nests: tuple[Nest, ...]) -> float:
        """Instructions of all warps: of each loop that is named, times its trips; the rest once."""
        claimed: dict[tuple[int, int], float] = {}
        for nest in nests:
            chain = self.chain(nest.work)[:-1]
            for loop, trips in zip(chain, nest.trips, strict=False):
                taps = nest.work.endswith("taps") and loop == chain[0]
                claimed[loop] = trips / self.amount(nest.work, loop) if taps else trips
        total, whole = 0.0, (0, len(self.opcodes) - 1)
        for loop, trips in {**claimed, whole: starts}.items():
            inner = [other for other in claimed if within(other, loop)]
            inside = {i for other in inner for i in range(other[0], other[1] + 1)}
            total += trips * (loop[1] - loop[0] + 1 - len(inside))
        return total


def read_code(sass: str) -> Code:
    """Instructions and loops of a kernel's disassembly."""
    listing = INSTRUCTION.findall(sass)
    place = {int(address, 16): i for i, (address, _, _) in enumerate(listing)}
    opcodes = tuple(opcode for _, opcode, _ in listing)
    loops = []
    for i, (address, opcode, operands) in enumerate(listing):
        target = re.search(r"0x([0-9a-f]+)", operands) if opcode.startswith("BRA") else None
        if target and int(target[1], 16) < int(address, 16):
            loops.append((place[int(target[1], 16)], i))
    # Behind the last exit are rare ways that return to where they left: no loops.
    last_exit = max(
        (i for i, opcode in enumerate(opcodes) if opcode == "EXIT"), default=len(opcodes)
    )
    loops = [loop for loop in loops if loop[1] < last_exit]
    code = Code(opcodes, tuple(loops), 0.0)
    first, last = code.chain("tensor")[0]
    return Code(opcodes, tuple(loops), steps_ahead(listing[first : last + 1]))


def steps_ahead(loop: list[tuple[str, str, str]]) -> float:
    """Steps that are being copied by LDGSTS while a loop computes: those which its wait leaves, and
    one more if it starts the next copy between that wait and its first product.
    """
    opcodes = [opcode for _, opcode, _ in loop]
    commits = [i for i, opcode in enumerate(opcodes) if opcode == "LDGDEPBAR"]
    if not commits:
        return 0.0
    waits = {}
    for i, (_, opcode, operands) in enumerate(loop):
        left = re.search(r"SB0, 0x([0-9a-f]+)", operands)
        if opcode.startswith("DEPBAR") and left:
            waits[i] = int(left[1], 16)
    product = next((i for i, o in enumerate(opcodes) if re.match(WORK["tensor"], o)), 0)
    # A wait behind the products is that of the trip before.
    last = max((i for i in waits if i < product), default=-1)
    early = any(last < i < product for i in commits)
    return max(waits.values(), default=0) // len(commits) + early
