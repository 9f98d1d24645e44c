"""An engine for tests: it says the same of everything, and can do what it is told to be able to do."""

from dataclasses import dataclass, field

from leakmech.generation.decode import Clock, Generation
from leakmech.generation.engine import Capabilities


@dataclass
class Parrot:
    """`asked` are the (prompt id, generation) that it completed, in its own order."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    name: str = "parrot"
    clock: Clock = field(default_factory=Clock)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def identity(self):
        return {"engine": self.name}

    def auto_batch_size(self, **_):
        return 2

    def complete(self, rows, decoding, *, done=(), **_):
        for row in reversed(rows):
            if (row.prompt_id, row.generation) not in done:
                self.asked.append((row.prompt_id, row.generation))
                yield [Generation(row.prompt_id, row.generation, f"Parrot {row.generation}.", (1, 2), "sentence")]
