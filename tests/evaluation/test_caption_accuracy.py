from PIL import ImageFilter

from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import WORLDS, Combination, make_scene
from finetune.evaluation.caption_accuracy import caption_accuracy, read_back


def test_drawn_scenes_are_read_back_wherever_they_stand_and_however_blurred() -> None:
    scenes = [make_scene(seed, world) for world in WORLDS for seed in range(60)]
    asked = [scene.combination for scene in scenes]
    images = [draw(scene) for scene in scenes]
    assert caption_accuracy(asked, images)["all"] == 1
    assert caption_accuracy(asked, [image.filter(ImageFilter.GaussianBlur(6)) for image in images])["all"] == 1


def test_each_attribute_is_counted_for_itself() -> None:
    scene = make_scene(0, "new")
    [shown] = read_back([draw(scene)])
    assert shown == scene.combination
    other = Combination(shown.subject, "none", shown.pose, "nowhere")
    assert caption_accuracy([other, shown], [draw(scene)] * 2) == {
        "subject": 1.0,
        "outfit": 0.5,
        "pose": 1.0,
        "background": 0.5,
        "all": 0.5,
    }
