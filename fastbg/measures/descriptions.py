"""Descriptions of images by measures of similarity: made once, kept, compared in pairs."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor

from fastbg.measures.likeness import Described, Images, Similarity, matrix_distance
from fastbg.measures.texture import gram_distance
from fastbg.models.network import Network
from fastbg.upload import uploaded

# Number of images described at once. The VGG features of each take 4 MiB at 128 x 128; the paper's
# measure does not store them, others do.
BATCH = {"cpu": 16, "cuda": 128}


class Descriptions:
    """A cache of descriptions, so that an image in several pairs is described once.

    Keeps the descriptions of the last `kept` images used (0.4 MiB for all measures of an image of
    128x128 pixels), also for the next network if no measure depends on it.
    """

    def __init__(self, similarities: Mapping[str, Similarity], kept: int = 640) -> None:
        self.similarities = similarities
        self._kept = kept
        self._shared = all(each.any_net for each in similarities.values())
        self._rows: OrderedDict[Hashable, int] = OrderedDict()  # of `_known`, last used last
        self._unused: list[int] = []  # rows of images that are not kept any more
        self._known: dict[str, Described] = {}
        self._net: Network | None = None

    def distances(
        self, net: Network, keys: Sequence[Hashable], load: Callable[[Sequence[int]], Images]
    ) -> dict[str, Tensor]:
        """For each measure the distances (K) of the first image's foreground to all surroundings.

        `load` as for `of`.
        """
        described = self.of(net, keys, load)
        each = torch.arange(len(keys), device=next(iter(described.values()))[0].device)
        pairs = torch.stack([torch.zeros_like(each), each], dim=1)
        (found,) = self.apart(described, pairs, [len(keys)])
        return found

    def of(
        self, net: Network, keys: Sequence[Hashable], load: Callable[[Sequence[int]], Images]
    ) -> dict[str, Described]:
        """For each measure the descriptions (U, ...) of U images.

        `load(indices)` returns the `Images` of keys[i] for i in `indices`, with `net`.
        """
        if net is not self._net:
            if not self._shared or (self._net is not None and self._net.scale != net.scale):
                self._rows.clear()
                self._unused.clear()
                self._known.clear()
            self._net = net
        missing = [*{key: i for i, key in enumerate(keys) if key not in self._rows}.values()]
        for key in keys:
            if key in self._rows:
                self._rows.move_to_end(key)
        while self._rows and len(self._rows) + len(missing) > max(self._kept, len(keys)):
            self._unused.append(self._rows.popitem(last=False)[1])
        size = BATCH["cpu" if net.mean.device.type == "cpu" else "cuda"]
        for first in range(0, len(missing), size):
            batch = missing[first : first + size]
            self._keep([keys[i] for i in batch], load(batch))
        some = next(iter(self._known.values()))[0]
        rows = uploaded([self._rows[key] for key in keys], torch.int64, some.device)
        return {
            name: (inside.index_select(0, rows), around.index_select(0, rows))
            for name, (inside, around) in self._known.items()
        }

    @torch.inference_mode()  # what is kept may be written again in any mode
    def _keep(self, keys: Sequence[Hashable], images: Images) -> None:
        """Describe `images`, into unused rows first; a few calls for a batch, not for an image."""
        old = self._unused[: len(keys)]
        least = len(self._rows) + len(self._unused)  # number of rows before
        rows = [*old, *range(least, least + len(keys) - len(old))]
        into = uploaded(rows, torch.int64, images.hr.device)

        def stored(known: Tensor | None, new: Tensor) -> Tensor:
            most = 0 if known is None else len(known)
            if known is None or most <= max(rows):
                more = new.new_empty((max(2 * most, 1 + max(rows)), *new.shape[1:]))
                if known is not None:
                    more[:most] = known
                known = more
            return known.index_copy_(0, into, new)

        described = {name: each.describe(images) for name, each in self.similarities.items()}
        for name, (inside, around) in described.items():
            before = self._known.get(name, (None, None))
            self._known[name] = stored(before[0], inside), stored(before[1], around)
        self._rows.update(zip(keys, rows, strict=True))
        del self._unused[: len(old)]

    def apart(
        self, described: Mapping[str, Described], pairs: Tensor, sizes: Sequence[int]
    ) -> list[dict[str, Tensor]]:
        """For each group and measure the distances (K) of the first image's foreground.

        `described` comes from `of`. `pairs` (N,2): the number of a group and of one of its images
        there, group after group; `sizes`: K of each.
        """
        found: list[dict[str, Tensor]] = [{} for _ in sizes]
        first = own_rows(pairs, sizes)
        for name, (inside, around) in described.items():
            distance = self.similarities[name].distance
            if distance is matrix_distance:  # all groups at once, in one matrix product
                every = gram_distance(inside.index_select(0, first), around)
                apart = every[pairs[:, 0], pairs[:, 1]].split([*sizes])
                for into, values in zip(found, apart, strict=True):
                    into[name] = values
                continue
            for into, rows in zip(found, pairs[:, 1].split([*sizes]), strict=True):
                front = inside.index_select(0, rows[:1])
                into[name] = distance(front, around.index_select(0, rows))
        return found


def own_rows(pairs: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows (G) of the groups' own images, the first of each in `pairs` (N,2)."""
    if len({*sizes}) == 1:
        return pairs[:: sizes[0], 1]
    return torch.stack([rows[0] for rows in pairs[:, 1].split([*sizes])])
