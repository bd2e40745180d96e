import numpy as np
from PIL import Image

from finetune.image_grid import BACKGROUND, GAP, MARGIN, THUMBNAIL, make_grid

RED, BLUE = (200, 0, 0), (0, 0, 200)


def plain(color: tuple[int, int, int], side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), color, np.uint8)


def colors(page: Image.Image, box: tuple[int, int, int, int]) -> set[tuple[int, ...]]:
    return {color for _, color in page.crop(box).getcolors(1 << 24)}


def bounding_box(page: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box around all pixels of a color: left, top, right, bottom."""
    rows, columns = np.nonzero((np.asarray(page) == color).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_images_of_any_size_become_thumbnails_in_a_row() -> None:
    page = make_grid([[plain(RED, 64), plain(BLUE, 512)]], ["base", "tuned"], ["a star"])
    left, top, right, bottom = bounding_box(page, RED)
    assert (right - left, bottom - top) == (THUMBNAIL, THUMBNAIL)
    assert bounding_box(page, BLUE) == (right + GAP, top, right + GAP + THUMBNAIL, bottom)


def test_columns_are_filled_before_the_next_line() -> None:
    rows = [[plain((0, 0, 0))], [plain(RED)], [plain(BLUE)]]
    page = make_grid(rows, [], ["one", "two", "three"], columns=2)
    assert bounding_box(page, RED)[0] > bounding_box(page, BLUE)[0]
    assert bounding_box(page, RED)[1] < bounding_box(page, BLUE)[1]


def test_long_caption_stays_within_the_margins() -> None:
    page = make_grid([[plain(RED)]], ["base"], ["a very long caption about a star " * 6])
    assert colors(page, (0, 0, MARGIN, page.height)) == {BACKGROUND}
    assert colors(page, (page.width - MARGIN, 0, page.width, page.height)) == {BACKGROUND}
    assert colors(page, (0, page.height - 5, page.width, page.height)) == {BACKGROUND}


def test_long_caption_makes_the_page_taller_not_wider() -> None:
    short = make_grid([[plain(RED)]], [], ["a star"])
    long = make_grid([[plain(RED)]], [], ["a very long caption about a star " * 6])
    assert long.width == short.width
    assert long.height > short.height


def test_headers_are_above_each_image_of_the_first_line() -> None:
    page = make_grid([[plain(RED), plain(BLUE)]] * 2, ["base", "tuned"], ["a star", "a ring"])
    for color in (RED, BLUE):
        left, top, right, _ = bounding_box(page, color)
        assert colors(page, (left, 0, right, top)) > {BACKGROUND}


def test_without_headers_the_space_above_the_images_is_empty() -> None:
    page = make_grid([[plain(RED)]], [], ["a star"])
    assert colors(page, (0, 0, page.width, bounding_box(page, RED)[1])) == {BACKGROUND}


def test_page_is_no_wider_than_its_rows() -> None:
    assert make_grid([[plain(RED)]], [], ["a star"], columns=4).size == make_grid([[plain(RED)]], [], ["a star"]).size
