"""Which texture is most like which? Gram matrices of VGG16's first layer, as in the paper.

Prints for one texture of each of OST's seven classes the nearest other texture, and how often it
is of the same class (by chance: 6 of 45). Takes a second.
"""

import torch

from fastbg import gram_distance, texture_gram
from fastbg.data.builtin import builtin_images

images = builtin_images()
textures = [item for item in images.items if item.key in images.classes]
pixels = torch.stack([torch.from_numpy(t.load()[:192, :192]).permute(2, 0, 1) for t in textures])

grams = torch.cat([texture_gram(batch) for batch in pixels.split(8)])  # (45,64,64)
distance = gram_distance(grams, grams)  # (45,45), 0 on the diagonal
sources = [images.source(t.key) for t in textures]
for i, source in enumerate(sources):  # a texture's own photograph does not count
    distance[i, [other == source for other in sources]] = float("inf")
nearest = distance.argmin(1).tolist()

shown = set()
for i, texture in enumerate(textures):
    kind = images.classes[texture.key]
    if kind not in shown:
        print(f"{texture.key:22} {textures[nearest[i]].key:22} {distance[i, nearest[i]]:.2e}")
        shown.add(kind)
same = [
    images.classes[a.key] == images.classes[textures[j].key]
    for a, j in zip(textures, nearest, strict=True)
]
print(f"nearest is of the same class: {sum(same)} of {len(same)}")
