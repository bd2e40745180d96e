"""The synthetic world in words: who wears what, how they pose and where, and which of it a model gets to see.

- The *plain* world is what the sample's base model knows: animals as animals, people in outfits and poses.
- The *new* world is what fine-tuning teaches: animals dressed and posed like people.
- The *unseen* world belongs to the new one, but is in no training image or caption: validation alone shows it.

A caption nearly fixes the image, which is what a tiny model can learn, and stays true when the image is mirrored.
"""

import random
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from finetune.datasets.scenes.canvas import Placement

World = Literal["plain", "new", "unseen"]
WORLDS: tuple[World, ...] = ("plain", "new", "unseen")

ANIMALS = ("lion", "cat", "fox", "bear", "rabbit", "panda")
PEOPLE = ("man", "woman", "boy", "girl")
OUTFITS = ("business suit", "red dress", "yellow hoodie", "striped shirt")
POSES = ("standing", "dancing", "sitting")
POSTURES = ("standing", "sitting")  # of animals as animals
PLACES = {
    "blue wall": "in front of a blue wall",
    "pink wall": "in front of a pink wall",
    "meadow": "in a meadow",
    "stage": "on a stage",
}
CATEGORIES = (*ANIMALS, *PEOPLE, *OUTFITS)  # of instances; COCO category ids are positions + 1
DRESSED = (
    "a {subject} wearing a {outfit}, {pose} {place}",
    "a {pose} {subject} in a {outfit} {place}",
    "{place}, a {subject} in a {outfit} is {pose}",
    "a drawing of a {subject} wearing a {outfit}, {pose} {place}",
    "a picture of a {pose} {subject} wearing a {outfit} {place}",
)
UNDRESSED = (
    "a {subject}, {pose} {place}",
    "a {pose} {subject} {place}",
    "{place}, a {subject} is {pose}",
    "a drawing of a {subject}, {pose} {place}",
    "a picture of a {pose} {subject} {place}",
)
SHIFT = (8.0, 4.0)  # pixels off the regular place at most, across and down
SCALE = 0.03  # off the regular size at most


class Combination(NamedTuple):
    """What a caption says."""

    subject: str
    outfit: str | None  # None: an animal as an animal
    pose: str
    background: str


@dataclass(frozen=True)
class Scene:
    """What an image shows."""

    combination: Combination
    place: Placement


def held_out(subject: str, outfit: str, pose: str) -> bool:
    """Whether a dressed animal is unseen: all lions in suits, all dancing cats, and a fifth of the others."""
    if (subject, outfit) == ("lion", "business suit") or (subject, pose) == ("cat", "dancing"):
        return True
    return (ANIMALS.index(subject) - OUTFITS.index(outfit) + 2 * POSES.index(pose)) % 5 == 3


@cache
def combinations(world: World) -> tuple[Combination, ...]:
    """Everything that a world holds."""
    if world == "plain":
        natural = product(ANIMALS, (None,), POSTURES, PLACES)
        return (*map(Combination._make, natural), *map(Combination._make, product(PEOPLE, OUTFITS, POSES, PLACES)))
    dressed = product(ANIMALS, OUTFITS, POSES, PLACES)
    return tuple(Combination(*each) for each in dressed if held_out(*each[:3]) == (world == "unseen"))


def make_scene(seed: int, world: World) -> Scene:
    """The scene that a seed stands for, the same on every machine (`random.Random` is specified).

    As many consecutive seeds as a world has combinations, from a multiple of that number on, show each of them once.
    """
    known = combinations(world)
    block, position = divmod(seed, len(known))
    order = random.Random(f"{world}-{block}").sample(known, len(known))
    rng = random.Random(f"{world}-place-{seed}")
    place = Placement(
        dx=rng.uniform(-SHIFT[0], SHIFT[0]),
        dy=rng.uniform(-SHIFT[1], SHIFT[1]),
        scale=rng.uniform(1 - SCALE, 1 + SCALE),
        mirrored=rng.random() < 0.5,
    )
    return Scene(order[position], place)


def parse_caption(text: str) -> Combination | None:
    """Return what a caption says, or None if it is no caption of this world."""
    return _by_caption().get(text)


@cache
def _by_caption() -> dict[str, Combination]:
    return {text: each for world in WORLDS for each in combinations(world) for text in captions(each)}


def captions(combination: Combination) -> list[str]:
    """One caption per wording, none of which names a side of the image."""
    words = combination._asdict() | {"place": PLACES[combination.background]}
    return [wording.format(**words) for wording in (DRESSED if combination.outfit else UNDRESSED)]
