"""Tasks on sounds: folders, tables, Parquet and arrays; what [task.audio] says; augmentation."""

from __future__ import annotations

import csv

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from sound_support import NAMES, RATE, band_net, noise, tone, wave_net, write, write_words
from test_tasks import first_batch

from evonnx.adapter import TrainingBudget
from evonnx.errors import AdapterError, TaskError
from evonnx.evaluation import evaluate
from evonnx.network import load_network
from evonnx.task import Batch, Target
from evonnx.tasks import load_task
from evonnx.tasks.data.sound import recordings
from evonnx.tasks.data.sound.clips import Clip
from evonnx.tasks.data.sound.features import Features, Logarithm, MelBands, Spectrum
from evonnx.testing import TaskContract
from evonnx.testing.models import save
from evonnx_training.augmentation import TimeShift, read_augmentation

WAVEFORM = f"[task.audio]\nsample_rate = {RATE}\n"
MEL = f'{WAVEFORM}features = "mel"\nn_fft = 256\nhop_length = 128\nn_mels = 20\nlog = "ln"\n'


def load(folder, model, text, kind="classification"):
    path = save(model, folder / "model.onnx")
    (folder / "model.toml").write_text(f'[task]\nkind = "{kind}"\n{text}')
    return load_task(folder / "model.toml", load_network(path))


class TestClassFolders(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(wave_net(width=4), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self, model, tmp_path):
        for seed, split in enumerate(("train", "test")):
            write_words(tmp_path / split, 24, seed)
        return load(tmp_path, onnx.load(model), f'train = "train"\ntest = "test"\n{WAVEFORM}')

    def test_describes_the_sounds(self, task):
        text = task.describe()
        assert "classes in order: down, hold, up;" in text
        assert "waveforms of 0.25 s at 8000 Hz" in text


class TestTables(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(band_net((1, 20, 16)), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self, model, tmp_path):
        names = write_words(tmp_path / "clips", 24)
        (tmp_path / "lists").mkdir()
        with (tmp_path / "lists" / "all.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["speaker", "file", "word"])
            rows.writerows([f"a, b {index}", name, name.split("/")[0]] for index, name in enumerate(names))
        text = 'train = { file = "lists/all.csv", x = "file", y = "word", folder = "clips" }\n'
        return load(tmp_path, onnx.load(model), f'{text}class_names = ["up", "down", "hold"]\n{MEL}')

    def test_names_are_classes(self, task, tmp_path):
        labels = np.concatenate([batch.targets for batch in task.batches("train", 100)])
        assert set(labels) == {0, 1, 2}
        assert task.size("train") == 24 - 2 * 3

    def test_examples_are_the_files_features(self, task, tmp_path):
        mel = MelBands(20, 0, RATE / 2)
        made = Features(RATE, Spectrum(256, 256, 128), mel, Logarithm("ln", 1e-10, 1e-6))
        batch = next(task.batches("train", 100))
        found = {array.tobytes() for array in batch.inputs["x"]}
        wanted = set()
        for path in (tmp_path / "clips").glob("*/*.wav"):
            wave = recordings.read_clip(path, "", task._parts["train"].source.examples.plan.clip, RATE, 2**20)
            wanted.add(made(wave)[None].astype(np.float32).tobytes())
        assert found < wanted


class TestParquet(TaskContract):
    """A column as Hugging Face's Audio feature stores it."""

    @pytest.fixture
    def model(self, tmp_path):
        return save(wave_net(rank=2, width=4), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self, model, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = write_words(tmp_path / "clips", 24)
        cells = [{"bytes": (tmp_path / "clips" / name).read_bytes(), "path": name} for name in names]
        labels = [NAMES.index(name.split("/")[0]) for name in names]
        pq.write_table(pa.table({"audio": cells, "label": labels}), tmp_path / "all.parquet")
        text = 'train = "all.parquet"\nlabel = "label"\n[task.inputs.x]\ncolumn = "audio"\n'
        return load(tmp_path, onnx.load(model), text + WAVEFORM.replace("audio", "inputs.x.audio"))

    def test_bytes_and_files_are_one(self, task, tmp_path):
        write_words(tmp_path / "all", 24)
        other = load(tmp_path, wave_net(rank=2), f'test = "all"\n{WAVEFORM}')
        found = np.concatenate(
            [b.inputs["x"] for s in ("train", "validation", "test") for b in task.batches(s, 99)]
        )
        assert sorted(map(bytes, found)) == sorted(map(bytes, first_batch(other)))


class TestDistillation(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(wave_net(width=4), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self, model, tmp_path):
        for index in range(20):
            write(tmp_path / "loose" / f"{index}.wav", noise(1000 + 100 * index, index))
        return load(tmp_path, onnx.load(model), f'train = "loose"\n{WAVEFORM}', "distillation")

    def test_batches_say_that_they_are_sounds(self, task):
        assert next(task.batches("train", 4)).time == {"x": 2}


# --- arrays, several inputs, targets of values


@pytest.mark.parametrize("shape", [(12, 3000), (12, 1, 3000)])
def test_arrays_of_waveforms(tmp_path, shape):
    """Whole numbers become shares; each is cut and made into features as a file's would be."""
    waves = (noise(12 * 3000) * 8000).astype(np.int16)
    np.savez(tmp_path / "test.npz", x=waves.reshape(shape), y=np.arange(12) % 3)
    task = load(tmp_path, wave_net(), f'test = "test.npz"\n{WAVEFORM}')
    want = waves.reshape(12, 1, 3000)[..., 500:2500] / np.float32(2**15)
    np.testing.assert_array_equal(first_batch(task), want)


def test_a_table_of_sounds_and_numbers_to_values(tmp_path):
    """Two inputs, one of them a sound; the sound moves in time, and the value stays where moves = false."""
    names = write_words(tmp_path, 20)
    rows = [f"{name},{index / 2},{index / 3}" for index, name in enumerate(names)]
    (tmp_path / "all.csv").write_text("\n".join(["clip,room,loud", *rows]))
    b = Builder(["N", 2000])
    b.inputs.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 1]))
    b.output(b.gemm(b.node("Concat", "x", "z", axis=1), 2001, 1), ["N", 1], "y")
    text = f"""
train = "all.csv"
[task.inputs.x]
column = "clip"
gain = 1
[task.inputs.x.audio]
sample_rate = {RATE}
[task.inputs.z]
column = "room"
[task.outputs.y]
column = "loud"
moves = false
"""
    with pytest.raises(TaskError, match="unknown key 'gain'"):
        load(tmp_path, b.model(), text, "regression")
    text = text.replace("gain = 1\n", "")
    task = load(tmp_path, b.model(), text, "regression")
    batch = next(task.batches("train", 5))
    assert batch.time == {"x": 1}
    moved, _ = TimeShift()(batch, np.random.default_rng(0))
    assert moved.inputs["z"] is batch.inputs["z"]
    assert (moved.inputs["x"] != batch.inputs["x"]).any()
    other = load(tmp_path, b.model(), text.replace("moves = false", "moves = true"), "regression")
    with pytest.raises(AdapterError, match="moves = false"):
        TimeShift()(next(other.batches("train", 5)), np.random.default_rng(0))


# --- shapes


@pytest.mark.parametrize(
    ("shape", "keys", "want", "time"),
    [
        ((2000,), "", (2000,), 1),
        ((1, 2000), "", (1, 2000), 2),
        ((2000, 1), "", (2000, 1), 1),
        (("L",), "seconds = 0.1", (800,), 1),
        ((1, "L"), "samples = 100", (1, 100), 2),
        ((20, 16), 'features = "mel"', (20, 16), 2),
        ((1, 20, 16), 'features = "mel"', (1, 20, 16), 3),
        ((20, 16, 1), 'features = "mel"', (20, 16, 1), 2),
        ((16, 20), 'features = "mel"', (16, 20), 1),
        ((1, 16, 20), 'features = "mel"', (1, 16, 20), 2),
        ((1, "T", 20), 'features = "mel"\nseconds = 0.1', (1, 7, 20), 2),
        ((1, 20, "T"), 'features = "mel"\nseconds = 0.1\ncenter = false', (1, 20, 5), 3),
        ((1, 20, 20), 'features = "mel"', (1, 20, 20), 3),
        ((1, 20, 20), 'features = "mel"\nlayout = "time-bands"', (1, 20, 20), 2),
        ((320,), 'features = "mel"', (320,), None),
        ((1, 20, 6), 'features = "mel"\nseconds = 0.1\nframes = 6', (1, 20, 6), 3),
        ((129, 10), 'features = "spectrogram"', (129, 10), 2),
        ((1, 13, 10), 'features = "mfcc"\nn_mfcc = 13', (1, 13, 10), 3),
    ],
)
def test_shapes_follow_the_graph(tmp_path, shape, keys, want, time):
    write_words(tmp_path / "test", 6)
    sizes = tuple(size if isinstance(size, int) else "S" for size in shape)
    fixed = np.prod(want)
    b = Builder(["N", *sizes])
    flat = b.node("Reshape", "x", b.ints(-1, int(fixed)))
    b.output(b.gemm(flat, int(fixed), 3), ["N", 3], "y")
    extra = "" if "features" not in keys else "n_fft = 256\nhop_length = 128\n"
    extra += "" if "m" not in keys or ("mel" not in keys and "mfcc" not in keys) else "n_mels = 20\n"
    task = load(tmp_path, b.model(), f'test = "test"\n{WAVEFORM}{keys}\n{extra}')
    batch = next(task.batches("test", 6))
    assert batch.inputs["x"].shape == (6, *want)
    assert batch.time == ({} if time is None else {"x": time})
    assert 0 <= evaluate(tmp_path / "model.onnx", task, "test", threads=1).value <= 1


def test_layouts_hold_the_same_numbers(tmp_path):
    write_words(tmp_path / "test", 6)
    found = {
        shape: first_batch(load(tmp_path, band_net(shape), f'test = "test"\n{MEL}'))
        for shape in [(20, 16), (1, 16, 20), (16, 20, 1)]
    }
    np.testing.assert_array_equal(found[1, 16, 20][:, 0].transpose(0, 2, 1), found[20, 16])
    np.testing.assert_array_equal(found[16, 20, 1][..., 0].transpose(0, 2, 1), found[20, 16])


def test_means_and_deviations_are_of_bands(tmp_path):
    """Lists lie along the bands, also where there are as many frames."""
    write_words(tmp_path / "test", 6)
    keys = f"mean = {list(range(20))}\nstd = {list(range(1, 21))}\n"
    for shape, axis in [((1, 20, 20), 2), ((1, 16, 20), 3), ((20, 20), 1)]:
        plain = first_batch(load(tmp_path, band_net(shape), f'test = "test"\n{MEL}'))
        found = first_batch(load(tmp_path, band_net(shape), f'test = "test"\n{keys}{MEL}'))
        steps = np.arange(20.0).reshape([-1 if place == axis else 1 for place in range(plain.ndim)])
        np.testing.assert_allclose(found, (plain - steps) / (steps + 1), rtol=1e-5, atol=1e-5)


# --- what is wrong


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("audio = 3", "audio must be a table, [task.audio]"),
        ("[task.audio]", "sample_rate must say the rate that the model takes"),
        ("[task.audio]\nsample_rate = 0", "sample_rate must be a whole number of at least 1"),
        ("[task.audio]\nsample_rate = 99999999", "at most 4194304"),
        (f"{WAVEFORM}sampel = 3", "unknown key 'sampel'. Did you mean 'samples'?"),
        (f"{WAVEFORM}n_mels = 40", 'n_mels is for features = "mel" or "mfcc"; this is "waveform"'),
        (f'{WAVEFORM}features = "mels"', "did you mean 'mel'?"),
        (f"{WAVEFORM}seconds = 1\nsamples = 8000", "samples must be left out where seconds is given"),
        (f"{WAVEFORM}seconds = 0", "seconds must be a number above 0"),
        (f"{WAVEFORM}seconds = 0.00001", "seconds must be at least one sample"),
        (f"{WAVEFORM}seconds = 1", "8000 samples are asked for, but input 'x' takes [N, 1, 2000]"),
        (f'{WAVEFORM}keep = "end"', "keep must be one of middle, start"),
        (f'{WAVEFORM}gain = "loud"', "gain must be one of none, peak, rms, standard"),
        (f"resize = 3\n{WAVEFORM}", "resize is for pictures, and [task.audio] says sounds"),
        (f"mean = [1, 2]\n{WAVEFORM}", "mean must be one number, or one per band"),
        (f"memory_gib = 0.000001\n{WAVEFORM}", "more than the limit"),
    ],
)
def test_wrong_tables_for_a_waveform(tmp_path, keys, says):
    write_words(tmp_path / "test", 6)
    with pytest.raises(TaskError) as caught:
        load(tmp_path, wave_net(), f'test = "test"\n{keys}\n')
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("n_fft = 100000", "n_fft must be at most 65536"),
        ("win_length = 300", "win_length must be at most n_fft, 256"),
        ("power = 3", "power must be 1 (magnitude) or 2 (power)"),
        ('window = "hanning"', "did you mean 'hann'?"),
        ("center = 1", "center must be true or false"),
        ("n_mels = 10000", "n_mels must be at most 1024"),
        ("n_mels = 21", "takes [N, 1, 20, 16], which has no place for 21 bands"),
        ('layout = "time-bands"', "has no place for 20 bands in the layout time-bands"),
        ("f_min = 3000\nf_max = 2000", "f_min is 3000 Hz, f_max 2000 Hz"),
        ("offset = -1", "offset must be a number of at least 0"),
        ("top_db = 80", 'top_db is for log = "db"'),
        ("samples = 100", "100 samples are too few for n_fft = 256; at least 129 are needed"),
        ("samples = 2000\nframes = 3", "give 16 frames, 3 of which are kept"),
        (
            "seconds = 1",
            "8000 samples give 63 frames, 63 of which are kept, and input 'x' takes [N, 1, 20, 16]",
        ),
        ("seconds = 1", "With samples = 1920 they fit, or with frames = 16"),
        ("seconds = 0.1", "800 samples give 7 frames"),
        ("n_mfcc = 13", 'n_mfcc is for features = "mfcc"'),
    ],
)
def test_wrong_tables_for_features(tmp_path, keys, says):
    write_words(tmp_path / "test", 6)
    table = dict(line.split(" = ", 1) for line in (MEL + keys).splitlines()[1:] if " = " in line)
    lines = "\n".join(f"{key} = {value}" for key, value in table.items())
    with pytest.raises(TaskError) as caught:
        load(tmp_path, band_net((1, 20, 16)), f'test = "test"\n[task.audio]\n{lines}\n')
    assert says in str(caught.value)


def test_every_key_reaches_the_features(tmp_path):
    write_words(tmp_path / "test", 6)
    keys = """
n_fft = 200
win_length = 180
hop_length = 100
window = "hamming"
center = true
pad_mode = "constant"
power = 1
n_mels = 32
f_min = 50
f_max = 3900
mel_scale = "slaney"
mel_norm = "slaney"
log = "db"
floor = 1e-5
offset = 0.25
ref = "max"
top_db = 60
n_mfcc = 12
features = "mfcc"
keep = "start"
gain = "peak"
"""
    task = load(tmp_path, band_net((12, 20)), f'test = "test"\n{WAVEFORM}{keys}')
    plan = task._parts["test"].source.examples.plan
    assert plan.clip == Clip(1900, "start", "peak")
    assert plan.features == Features(
        RATE,
        Spectrum(200, 180, 100, "hamming", True, "constant", 1.0),
        MelBands(32, 50, 3900, "slaney", True),
        Logarithm("db", 1e-5, 0.25, None, 60),
        12,
    )
    assert "mfcc features, 12 x 20 frames of 0.2375 s at 8000 Hz" in task.describe()


def test_lengths_that_nobody_says(tmp_path):
    write_words(tmp_path / "test", 6)
    with pytest.raises(TaskError, match=r"takes \[N, 1, any\], which leaves the length open; add seconds"):
        load(tmp_path, wave_net("L"), f'test = "test"\n{WAVEFORM}')
    with pytest.raises(TaskError, match=r"takes \[N, 2, 50\], which is no waveform of one channel"):
        load(tmp_path, band_net((2, 50)), f'test = "test"\n{WAVEFORM}')


def test_sounds_that_nobody_speaks_of(tmp_path):
    write_words(tmp_path / "test", 6)
    with pytest.raises(TaskError, match=r"holds sounds; say how they are read: a table \[task.audio\]"):
        load(tmp_path, wave_net(), 'test = "test"\n')
    (tmp_path / "none" / "up").mkdir(parents=True)
    with pytest.raises(TaskError, match="holds no sounds: expected one sub-folder"):
        load(tmp_path, wave_net(), f'test = "none"\n{WAVEFORM}')
    np.savez(tmp_path / "test.npz", x=np.zeros((6, 3, 20)), y=np.arange(6) % 3)
    with pytest.raises(TaskError, match=r"holds examples of shape \[3, 20\]; \[task.audio\] takes waveforms"):
        load(tmp_path, wave_net(), f'test = "test.npz"\n{WAVEFORM}')


def test_a_file_that_is_no_sound_is_named_when_it_is_needed(tmp_path):
    write_words(tmp_path / "test", 6)
    (tmp_path / "test" / "up" / "zz.wav").write_bytes(b"RIFF but not really")
    task = load(tmp_path, wave_net(), f'test = "test"\n{WAVEFORM}')
    with pytest.raises(TaskError, match=r"The sound .*up.zz\.wav cannot be read"):
        first_batch(task)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../secret.wav", "leads out of"),
        ("link.wav", "leads out of"),
        ("folder/../../secret.wav", "leads out of"),
        ("none.wav", "is not in"),
        (".", "is not in"),
        ("", "is not in"),
        ("a\0b.wav", "which cannot be|cannot be read"),
    ],
)
def test_names_that_lead_out_of_the_folder(tmp_path, name, says):
    secret = write(tmp_path / "secret.wav", tone(440))
    write(tmp_path / "data" / "good.wav", tone(440))
    (tmp_path / "data" / "link.wav").symlink_to(secret)
    (tmp_path / "data" / "test.csv").write_text(f"x,y\ngood.wav,0\n{name},1\n")
    with pytest.raises(TaskError, match=says):
        load(tmp_path, wave_net(), f'test = "data/test.csv"\n{WAVEFORM}')
    (tmp_path / "data" / "test.csv").write_text(f"x,y\ngood.wav,0\n{secret},1\n")
    with pytest.raises(TaskError, match="leads out of"):
        load(tmp_path, wave_net(), f'test = "data/test.csv"\n{WAVEFORM}')


def test_wrong_lists(tmp_path):
    write(tmp_path / "a.wav", tone(440))
    (tmp_path / "test.csv").write_text("x,y\na.wav,yes\na.wav,no\n")
    with pytest.raises(TaskError, match="'yes' is not among class_names, no, maybe"):
        load(tmp_path, wave_net(), f'test = "test.csv"\nclass_names = ["no", "maybe"]\n{WAVEFORM}')
    (tmp_path / "test.csv").write_text("y,x\n1,a.wav\n1\n")
    with pytest.raises(TaskError, match="line 3: it has no column 'x'"):
        load(tmp_path, wave_net(), f'test = "test.csv"\n{WAVEFORM}')
    with pytest.raises(TaskError, match="folder is for sounds"):
        load(tmp_path, wave_net(), 'test = { file = "test.csv", folder = "clips" }\n')


# --- augmentation


@pytest.mark.parametrize("axis", [1, 2])
def test_time_shift_moves_along_time_only(axis):
    """Every view is the example moved by its step, with silence where nothing was."""
    values = np.random.default_rng(0).uniform(1, 2, (200, 40, 40)).astype(np.float32)
    batch = Batch({"x": values}, np.arange(200), 200, time={"x": axis})
    augmentation = TimeShift(0.2)
    moved, numbers = augmentation(batch, np.random.default_rng(1))
    assert set(numbers) == set(range(augmentation.views))
    assert moved.targets is batch.targets
    for given, found, number in zip(values, moved.inputs["x"], numbers, strict=True):
        step = number - augmentation.unmoved
        want = np.roll(given, step, axis - 1)
        outside = np.arange(40) < step if step >= 0 else np.arange(40) >= 40 + step
        want = np.where(outside[:, None] if axis == 1 else outside, given.min(), want)
        np.testing.assert_array_equal(found, want)


def test_what_enters_a_waveform_is_silence():
    batch = Batch({"x": np.ones((50, 1, 100), np.float32)}, None, 50, time={"x": 2})
    moved, numbers = TimeShift(0.08)(batch, np.random.default_rng(0))
    np.testing.assert_array_equal((moved.inputs["x"] == 0).sum(axis=(1, 2)), np.abs(numbers - 8))


def test_sounds_are_neither_mirrored_nor_are_pictures_moved_in_time(tmp_path):
    sounds = Batch({"x": np.zeros((2, 1, 20, 20), np.float32)}, None, 2, time={"x": 3})
    pictures = Batch({"x": np.zeros((2, 1, 20, 20), np.float32)}, None, 2)
    rng = np.random.default_rng(0)
    for name in ("shift", "flip-shift", "flip-shift:0"):
        with pytest.raises(AdapterError, match='augment = "time-shift" or "none"'):
            read_augmentation(name)(sounds, rng)
    with pytest.raises(AdapterError, match="time-shift is for inputs that the task file says are sounds"):
        read_augmentation("time-shift")(pictures, rng)
    assert read_augmentation("none")(sounds, rng)[0] is sounds
    assert read_augmentation("time-shift:0.25") == TimeShift(0.25)
    values = Target(np.zeros((2, 1), np.float32))
    unsaid = Batch(sounds.inputs, {"y": values}, 2, time=sounds.time)
    with pytest.raises(AdapterError, match="not their targets for 'y'"):
        TimeShift()(unsaid, rng)
    for wrong in ("time-shift:0", "time-shift:2", "time-shift:0.0", "time-shift/3"):
        with pytest.raises(AdapterError, match=r"such as time-shift:0\.1"):
            read_augmentation(wrong)
    assert TrainingBudget(augment="time-shift").augment == "time-shift"
