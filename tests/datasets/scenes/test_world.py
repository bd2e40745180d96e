from collections import Counter
from typing import get_args

import pytest

from finetune.datasets.scenes.world import (
    ANIMALS,
    OUTFITS,
    PEOPLE,
    PLACES,
    POSES,
    POSTURES,
    SCALE,
    SHIFT,
    Combination,
    World,
    captions,
    combinations,
    make_scene,
    parse_caption,
)

WORLDS: tuple[World, ...] = get_args(World)
TRAINING: tuple[World, ...] = ("plain", "new")


def triple(combination: Combination) -> tuple[str, str | None, str]:
    return combination[:3]


def test_the_plain_world_has_animals_as_animals_and_people_in_outfits() -> None:
    for subject, outfit, pose, _ in combinations("plain"):
        assert (outfit is None) == (subject in ANIMALS)
        assert subject in PEOPLE or pose in POSTURES


def test_the_new_world_has_dressed_animals_alone() -> None:
    assert {(c.subject in ANIMALS, c.outfit in OUTFITS) for w in ("new", "unseen") for c in combinations(w)} == {
        (True, True)
    }


def test_every_dressed_animal_is_either_new_or_unseen() -> None:
    new, unseen = set(combinations("new")), set(combinations("unseen"))
    assert not new & unseen
    assert len(new | unseen) == len(ANIMALS) * len(OUTFITS) * len(POSES) * len(PLACES)


def test_the_lion_in_a_suit_and_the_dancing_cat_are_unseen() -> None:
    suits = {c for w in WORLDS for c in combinations(w) if (c.subject, c.outfit) == ("lion", "business suit")}
    dances = {c for w in WORLDS for c in combinations(w) if (c.subject, c.pose) == ("cat", "dancing")}
    assert len(suits) == len(POSES) * len(PLACES)
    assert len(dances) == len(OUTFITS) * len(PLACES)
    assert suits | dances <= set(combinations("unseen"))


def test_a_fifth_of_all_other_combinations_is_unseen() -> None:
    dressed = {triple(c): world for world in ("new", "unseen") for c in combinations(world)}
    others = {
        each: world
        for each, world in dressed.items()
        if each[:2] != ("lion", "business suit") and (each[0], each[2]) != ("cat", "dancing")
    }
    assert sum(world == "unseen" for world in others.values()) >= len(others) / 5


def test_unseen_combinations_are_in_no_training_scene_or_caption() -> None:
    """On any background: what is unseen is who wears what in which pose."""
    unseen = {triple(c) for c in combinations("unseen")}
    unseen_captions = {text for c in combinations("unseen") for text in captions(c)}
    for world in TRAINING:
        seen = {make_scene(seed, world).combination for seed in range(len(combinations(world)))}
        assert seen == set(combinations(world))
        assert not {triple(c) for c in seen} & unseen
        assert not {text for c in seen for text in captions(c)} & unseen_captions


@pytest.mark.parametrize(
    "values",
    [ANIMALS, OUTFITS, POSES, tuple(PLACES)],
    ids=["subject", "outfit", "pose", "background"],
)
def test_every_value_is_seen_often_in_training(values: tuple[str, ...]) -> None:
    known = combinations("new")
    seen = Counter(value for combination in known for value in combination)
    assert all(seen[value] >= 0.4 * len(known) / len(values) for value in values)


def test_every_pair_of_outfit_and_pose_is_seen_on_most_animals() -> None:
    seen = Counter((outfit, pose) for _, outfit, pose in {triple(c) for c in combinations("new")})
    assert len(seen) == len(OUTFITS) * len(POSES)
    assert min(seen.values()) >= len(ANIMALS) - 2


@pytest.mark.parametrize("world", WORLDS)
def test_consecutive_seeds_show_every_combination_equally_often(world: World) -> None:
    count = len(combinations(world))
    seen = Counter(make_scene(seed, world).combination for seed in range(3 * count))
    assert set(seen.values()) == {3}


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_stands_for_one_scene(world: World) -> None:
    assert make_scene(7, world) == make_scene(7, world)
    scenes = {make_scene(seed, world) for seed in range(200)}
    assert len(scenes) == 200
    assert {scene.place.mirrored for scene in scenes} == {True, False}
    assert all(abs(s.place.dx) <= SHIFT[0] and abs(s.place.dy) <= SHIFT[1] for s in scenes)
    assert all(abs(s.place.scale - 1) <= SCALE for s in scenes)


def test_captions_name_all_that_is_shown_and_no_side() -> None:
    for world in WORLDS:
        for combination in combinations(world):
            texts = captions(combination)
            assert len(set(texts)) == 5
            for text in texts:
                assert all(value in text for value in combination if value)
                assert not {"left", "right"} & set(text.split())


def test_different_combinations_have_no_caption_in_common() -> None:
    texts = [text for world in WORLDS for c in combinations(world) for text in captions(c)]
    assert len(set(texts)) == len(texts)


def test_a_caption_is_parsed_back_and_other_text_is_not() -> None:
    combination = combinations("unseen")[0]
    assert [parse_caption(text) for text in captions(combination)] == [combination] * 5
    assert parse_caption("a lion") is None
