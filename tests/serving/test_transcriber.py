"""Batches of concurrent recordings; the model waits at a gate, so that it is known what stands in the queue."""

import asyncio
import io
import threading

import pytest
import soundfile
from transformers import pipeline

from hf_mlpl.audio.decoders import AudioError
from hf_mlpl.serving.transcriber import Abandoned, Transcriber

from ..random_model import LANGUAGES, RATE, save_folder, sweep


def recording(seconds: float) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, sweep(seconds), RATE, format="WAV")
    file.seek(0)
    return file


class Gate:
    """Holds the model back until it is open."""

    def __init__(self, forward):
        self.forward, self.sizes = forward, []  # sizes of the batches that the model has begun
        self.is_open = threading.Event()

    def __call__(self, inputs, **kwargs):
        self.sizes.append(len(inputs["input_features"]))
        assert self.is_open.wait(60)
        return self.forward(inputs, **kwargs)


@pytest.fixture
def gate(asr, monkeypatch):
    gate = Gate(asr.forward)
    monkeypatch.setattr(asr, "forward", gate)
    return gate


def run(transcriber: Transcriber, work):
    """Returns the result of a coroutine, while the transcriber runs."""

    async def run():
        task = asyncio.create_task(transcriber.run())
        try:
            return await asyncio.wait_for(work(), 60)
        finally:
            task.cancel()

    return asyncio.run(run())


async def queue(transcriber: Transcriber, gate: Gate, first, others) -> list[asyncio.Task]:
    """Starts transcriptions, of which the model has the first, and the others wait in their order."""
    tasks = [asyncio.create_task(transcriber.transcribe(*first))]
    while not gate.sizes:
        await asyncio.sleep(0.001)
    before = transcriber.num_waiting
    for number, arguments in enumerate(others, start=1):
        tasks.append(asyncio.create_task(transcriber.transcribe(*arguments)))
        while transcriber.num_waiting < before + number:
            await asyncio.sleep(0.001)
    return tasks


def test_what_waits_is_one_batch_with_the_texts_of_each_alone(asr, gate):
    lengths = [1.0, 4.0, 2.0, 3.0, 1.5, 2.5]
    gate.is_open.set()
    expected = [asr(recording(seconds))["text"] for seconds in lengths]
    gate.is_open.clear()
    gate.sizes.clear()
    transcriber = Transcriber(asr, batch_seconds=100)

    async def work():
        first, *others = [(recording(seconds),) for seconds in lengths]
        tasks = await queue(transcriber, gate, first, others)
        gate.is_open.set()
        return await asyncio.gather(*tasks)

    transcripts = run(transcriber, work)
    assert [transcript.result["text"] for transcript in transcripts] == expected
    assert [transcript.seconds for transcript in transcripts] == lengths
    assert gate.sizes == [1, 5] and (transcriber.num_batches, transcriber.num_pieces) == (2, 6)


def test_batches_keep_to_their_seconds_and_to_one_language(gate, tmp_path):
    recognize = with_characters(tmp_path, gate)
    transcriber = Transcriber(recognize, batch_seconds=8.5)
    languages = [None, "de", None, None, "de", None]

    async def work():
        first, *others = [(recording(2), (None,), language) for language in languages]
        tasks = await queue(transcriber, gate, first, others)
        others = [asyncio.create_task(transcriber.transcribe(recording(seconds))) for seconds in (3, 6)]
        while transcriber.num_waiting < 7:
            await asyncio.sleep(0.001)
        gate.is_open.set()
        return await asyncio.gather(*tasks, *others)

    transcripts = run(transcriber, work)
    # the first; both of de; three of 2 s, which one of 3 s would make 12 s; then 3 s and 6 s, which would make 12 s
    assert gate.sizes == [1, 2, 3, 1, 1]
    texts = [transcript.result["text"] for transcript in transcripts]
    assert texts[1] == texts[4] != texts[0] == texts[2] == texts[3] == texts[5]
    assert set(texts[1]) <= set("abc ") and not set(texts[0]) <= set("abc ")


def with_characters(folder, gate: Gate):
    """Returns a pipeline with the gate whose tokenizer knows the characters of de."""
    recognize = pipeline("automatic-speech-recognition", model=save_folder(folder / "tiny", LANGUAGES), device="cpu")
    recognize.tokenizer.learn_language_characters({"de": ["abc"]})
    gate.forward, recognize.forward = recognize.forward, gate
    return recognize


def test_a_short_recording_does_not_wait_for_a_long_one(asr, gate):
    transcriber = Transcriber(asr, batch_seconds=50)
    seconds = 150.0  # 9 pieces, of which four are in the queue or in work

    async def work():
        long = asyncio.create_task(transcriber.transcribe(recording(seconds)))
        while transcriber.num_waiting < 3:
            await asyncio.sleep(0.001)
        short = asyncio.create_task(transcriber.transcribe(recording(1)))
        while transcriber.num_waiting < 4:
            await asyncio.sleep(0.001)
        gate.is_open.set()
        await short
        assert not long.done() and transcriber.num_pieces <= 6
        return await long

    transcript = run(transcriber, work)
    assert transcript.result["text"] == asr(recording(seconds))["text"] and transcript.seconds == seconds


def test_a_recording_that_makes_its_batch_fail_fails_alone(asr, gate):
    forward = gate.forward

    def fail(inputs, **kwargs):
        if inputs["attention_mask"].shape[1] > 250:  # more than 2.5 s
            raise MemoryError("too long")
        return forward(inputs, **kwargs)

    gate.forward = fail
    transcriber = Transcriber(asr, batch_seconds=100)

    async def work():
        first, *others = [(recording(seconds),) for seconds in (1.0, 2.0, 3.0, 1.5)]
        tasks = await queue(transcriber, gate, first, others)
        gate.is_open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    one, two, three, four = run(transcriber, work)
    assert isinstance(three, MemoryError)
    assert all(transcript.result["text"] for transcript in (one, two, four))
    assert gate.sizes == [1, 3, 1, 1, 1]


def test_what_nobody_waits_for_is_given_up(asr, gate):
    transcriber = Transcriber(asr, batch_seconds=25)
    gate.is_open.set()

    async def is_abandoned():
        return True

    async def work():
        with pytest.raises(Abandoned):
            await transcriber.transcribe(recording(150), is_abandoned=is_abandoned)
        return (await transcriber.transcribe(recording(1))).result

    assert run(transcriber, work)["text"]
    assert transcriber.num_pieces < 6 and transcriber.num_waiting == 0


def test_damage_behind_the_first_pieces_is_an_error_and_ends_the_work(asr, gate):
    transcriber = Transcriber(asr, batch_seconds=100)
    gate.is_open.set()
    samples = sweep(120)
    samples[80 * RATE] = float("nan")
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    file.seek(0)
    with pytest.raises(AudioError, match="NaN"):
        run(transcriber, lambda: transcriber.transcribe(file))
