import numpy as np
from PIL import Image

from finetune.image_grid import GAP, MARGIN, PAPER, THUMBNAIL, make_grid

RED, BLUE = (200, 0, 0), (0, 0, 200)


def plain(color: tuple[int, int, int], side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), color, np.uint8)


def colors(page: Image.Image, box: tuple[int, int, int, int]) -> set[tuple[int, ...]]:
    return {color for _, color in page.crop(box).getcolors(1 << 24)}


def find(page: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box around all pixels of a color."""
    rows, columns = np.nonzero((np.asarray(page) == color).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_pictures_of_any_size_become_thumbnails_side_by_side() -> None:
    page = make_grid([[plain(RED, 64), plain(BLUE, 512)]], ["base", "tuned"], ["a star"])
    left, top, right, bottom = find(page, RED)
    assert (right - left, bottom - top) == (THUMBNAIL, THUMBNAIL)
    assert find(page, BLUE) == (right + GAP, top, right + GAP + THUMBNAIL, bottom)


def test_strips_fill_a_line_before_the_next_one() -> None:
    strips = [[plain((0, 0, 0))], [plain(RED)], [plain(BLUE)]]
    page = make_grid(strips, [], ["one", "two", "three"], columns=2)
    assert find(page, RED)[0] > find(page, BLUE)[0]
    assert find(page, RED)[1] < find(page, BLUE)[1]


def test_the_margin_stays_empty_whatever_the_caption() -> None:
    page = make_grid([[plain(RED)]], ["base"], ["a very long caption about a star " * 6])
    assert colors(page, (0, 0, MARGIN, page.height)) == {PAPER}
    assert colors(page, (page.width - MARGIN, 0, page.width, page.height)) == {PAPER}
    assert colors(page, (0, page.height - 5, page.width, page.height)) == {PAPER}


def test_a_long_caption_makes_the_page_longer_and_not_wider() -> None:
    short = make_grid([[plain(RED)]], [], ["a star"])
    long = make_grid([[plain(RED)]], [], ["a very long caption about a star " * 6])
    assert long.width == short.width
    assert long.height > short.height


def test_headings_are_written_above_each_picture_of_the_first_line() -> None:
    page = make_grid([[plain(RED), plain(BLUE)]] * 2, ["base", "tuned"], ["a star", "a ring"])
    for color in (RED, BLUE):
        left, top, right, _ = find(page, color)
        assert colors(page, (left, 0, right, top)) > {PAPER}


def test_without_headings_nothing_stands_above_the_pictures() -> None:
    page = make_grid([[plain(RED)]], [], ["a star"])
    assert colors(page, (0, 0, page.width, find(page, RED)[1])) == {PAPER}


def test_a_page_is_no_wider_than_its_strips() -> None:
    assert make_grid([[plain(RED)]], [], ["a star"], columns=4).size == make_grid([[plain(RED)]], [], ["a star"]).size
