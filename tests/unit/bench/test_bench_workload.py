import asyncio
import base64
import json
import threading
from dataclasses import replace

import pytest

from core.bench.passes import advice, described
from core.bench.plan import Load, LoadKind, PromptKind, Workload
from core.bench.results.comparison import compare
from core.bench.results.result import results
from core.bench.run.job import start_bench
from core.bench.workload import (
    COMMON_WORDS,
    Bodies,
    ImagePrompts,
    ListedPrompts,
    RequestImages,
    SyntheticPrompts,
    check_sendable,
    image_tokens,
    listed_prompts,
    words_for,
)
from core.charts.load import conditions, latency_chart
from core.codec import decode, encode
from core.domain.conversation import Message, Role, Sampling, StoredImage
from core.domain.runs import LaneFacts
from core.domain.specs import Dialect, Endpoint, EndpointSpec, EngineKind, LaneSpec, ModelSpec
from core.errors import InputError
from core.images.gallery import gallery
from core.images.sanitise import sanitise
from core.models.context import LaneTokenizer
from core.reports.run_json import bench_from_json, bench_to_json
from tests.unit.bench.bench_samples import A, B, a_pass, a_plan, a_record, a_request
from tests.vision_checkpoints import LLAVA, LLAVA_FILES, TEXT_ONLY, write_checkpoint

tokenizers = pytest.importorskip("tokenizers")


def synthetic(length, *, run_id="r1", seed=0):
    return SyntheticPrompts(COMMON_WORDS, length, label="", seed=seed, run_id=run_id)


def text(prompts, number):
    (message,) = prompts.messages(number)
    return message.content


@pytest.mark.parametrize("length", [1, 8, 9, 200])
def test_synthetic_prompts_are_as_long_as_asked(length):
    prompts = synthetic(length)
    assert {len(text(prompts, number).split()) for number in range(70)} == {length}


def test_no_two_prompts_begin_alike_in_or_between_runs():
    one, other = synthetic(64), synthetic(64, run_id="r2")
    beginnings = {" ".join(text(p, n).split()[:8]) for p in (one, other) for n in range(500)}
    assert len(beginnings) == 1000


def test_a_prompt_is_known_by_its_number():
    assert text(synthetic(64), 2**24 + 3) == text(synthetic(64), 2**24 + 3)
    assert text(synthetic(64), 3) != text(synthetic(64), 4)


def test_the_seed_changes_the_bodies():
    assert text(synthetic(64), 3).split()[8:] != text(synthetic(64, seed=1), 3).split()[8:]


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [
        ((8, 20), (136, 148), 100),
        ((8, 22), (136, 278), 50),
        ((8, 7), (136, 7), None),
        ((8, None), (136, 148), None),
    ],
)
def test_words_follow_the_servers_count_without_its_template(short, long, expected):
    assert words_for(100, short, long) == expected


def listed(kind, path):
    return listed_prompts(Workload(prompts=kind, path=str(path)))


def asked(content):
    return (Message(Role.USER, content),)


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n  \ntwo\n", "utf-8")
    prompts = listed(PromptKind.TEXT, tmp_path / "p.txt")
    assert [prompts.messages(n) for n in range(3)] == [asked("one"), asked("two"), asked("one")]


def test_jsonl_takes_texts_and_objects(tmp_path):
    lines = [
        "plain",
        {"prompt": "with a key"},
        {"text": "with another"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    prompts = listed(PromptKind.JSONL, tmp_path / "p.jsonl")
    assert [prompts.messages(n) for n in range(3)] == [
        asked("plain"),
        asked("with a key"),
        asked("with another"),
    ]
    assert [m.role for m in prompts.messages(3)] == [Role.SYSTEM, Role.USER]


def test_sharegpt_takes_what_a_human_said_first(tmp_path):
    conversations = [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": [{"from": "gpt", "value": "Hello"}, {"from": "user", "value": "Who?"}]},
        {"conversations": []},
    ]
    (tmp_path / "s.json").write_text(json.dumps(conversations), "utf-8")
    prompts = listed(PromptKind.SHAREGPT, tmp_path / "s.json")
    assert [prompts.messages(n) for n in range(3)] == [asked("Hi"), asked("Who?"), asked("Hi")]


def test_the_examples_need_no_file():
    prompts = listed_prompts(Workload(prompts=PromptKind.EXAMPLES))
    assert prompts.messages(0)[0].content


def test_synthetic_prompts_come_from_no_list():
    assert listed_prompts(Workload()) is None


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (PromptKind.TEXT, "\n \n"),
        (PromptKind.TEXT, None),
        (PromptKind.JSONL, "{}"),
        (PromptKind.JSONL, "not json"),
        (PromptKind.JSONL, '{"messages": [{"role": "king", "content": "Hi"}]}'),
        (PromptKind.JSONL, '{"prompt": 3}'),
        (PromptKind.SHAREGPT, "[1]"),
        (PromptKind.SHAREGPT, '{"a": 1}'),
    ],
)
def test_a_file_that_can_not_be_used_is_refused(tmp_path, kind, content):
    path = tmp_path / "p"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(InputError) as refused:
        listed(kind, path)
    assert refused.value.code == "prompt-file"


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A byte-level BPE whose vocabulary has some whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    words = COMMON_WORDS[:60]
    texts = [*words, *(f"the {word} the" for word in words * 3)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_prompts_of_a_tokenizers_words_have_exactly_that_many_tokens(tokenizer_folder):
    tokenizer = LaneTokenizer(tokenizer_folder)
    words = tokenizer.plain_words()
    assert len(words) > 20
    prompts = SyntheticPrompts(words, 100, label="", seed=0, run_id="r")
    assert {tokenizer.count(text(prompts, number)) for number in range(100)} == {100}


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError) as refused:
        LaneTokenizer(tmp_path)
    assert refused.value.code == "no-tokenizer"


CAT, COFFEE = (
    sanitise(each.path.read_bytes(), name=each.path.name)
    for each in gallery()
    if each.path.name in ("cat.jpg", "coffee.jpg")
)
BYTES = {checked.image.sha256: checked.data for checked in (CAT, COFFEE)}
ENDPOINT = Endpoint(url="http://gpu:1/v1", model="m", dialect=Dialect.GENERIC)
COLORS = {"a": "#000001", "b": "#000002"}


def with_images(*images, vary=True, **changes):
    shown = images or (CAT.image, COFFEE.image)
    return Workload(prompt_tokens=32, output_tokens=11, images=shown, vary_images=vary, **changes)


def request_images(workload):
    return RequestImages(a_plan(A, workload=workload), lambda image: BYTES[image.sha256])


def some_prompts():
    return SyntheticPrompts(["one", "two", "three"], 12, label="12 words", seed=0, run_id="r")


def sent(prompts, number):
    return json.loads(prompts.body(ENDPOINT, Sampling(max_tokens=5), number))["messages"]


def image_in(message):
    head, _, data = message["content"][0]["image_url"]["url"].partition(";base64,")
    return head, base64.b64decode(data)


def a_lane(folder, kind, config, files=None):
    model = ModelSpec(name=folder.name, checkpoint=write_checkpoint(folder, config, files))
    return LaneSpec(name=f"{folder.name}-lane", kind=kind, model=model)


def big(size_bytes):
    return replace(CAT.image, size_bytes=size_bytes)


def test_every_request_has_an_image_of_its_own_and_its_own_text():
    prompts = ImagePrompts(some_prompts(), request_images(with_images()))
    bodies = [sent(prompts, number)[-1] for number in range(8)]
    versions = [image_in(message) for message in bodies]
    assert {head for head, _ in versions} == {"data:image/jpeg"}
    assert len({data for _, data in versions}) == 8
    assert len({message["content"][-1]["text"] for message in bodies}) == 8
    widths = [sanitise(data).image.width_px for _, data in versions]
    assert widths == [CAT.image.width_px, COFFEE.image.width_px] * 4


def test_the_same_images_are_sent_as_they_are():
    prompts = ImagePrompts(some_prompts(), request_images(with_images(vary=False)))
    assert [image_in(sent(prompts, number)[-1])[1] for number in range(3)] == [
        CAT.data,
        COFFEE.data,
        CAT.data,
    ]


def test_another_run_sends_other_versions_and_the_same_run_the_same():
    plan = a_plan(A, workload=with_images(CAT.image))
    one, again = (RequestImages(plan, lambda image: BYTES[image.sha256]) for _ in range(2))
    other = request_images(plan.workload)
    assert one.url(5) == again.url(5)
    assert one.url(5) != other.url(5)


def test_the_image_goes_to_what_the_user_said_last():
    said = (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "Hi"),
        Message(Role.ASSISTANT, "Hello"),
        Message(Role.USER, "What is it?"),
    )
    prompts = ImagePrompts(ListedPrompts([said], "a.jsonl"), request_images(with_images(CAT.image)))
    assert [message.images for message in prompts.messages(3)] == [(), (), (), (CAT.image,)]
    assert [type(message["content"]) for message in sent(prompts, 3)] == [str, str, str, list]
    assert prompts.label == "1 prompt from a.jsonl; an image with each request"


def test_a_body_is_made_ahead_in_order_and_no_further_than_planned():
    made = []

    def make(number):
        made.append((number, threading.current_thread().name))
        return b"%d" % number

    async def use():
        bodies = Bodies(make, 10, planned=3, body_bytes=10)
        await bodies.ready()
        ahead = len(made)
        taken = await asyncio.gather(*(bodies.take() for _ in range(4)))
        return ahead, taken

    assert asyncio.run(use()) == (3, [b"10", b"11", b"12", b"13"])
    assert [number for number, _ in made] == [10, 11, 12, 13]
    assert all(thread.startswith("bench-bodies") for _, thread in made)


def test_large_bodies_are_kept_in_small_numbers():
    made = []

    async def use():
        bodies = Bodies(lambda number: made.append(number) or b"", 0, planned=None, body_bytes=2**26)
        await bodies.ready()
        before = len(made)
        await bodies.take()
        await bodies.ready()
        return before, len(made)

    assert asyncio.run(use()) == (2, 3)


def test_what_goes_wrong_in_the_thread_reaches_who_asks():
    def make(number):
        raise MemoryError

    async def use():
        await Bodies(make, 0, planned=1, body_bytes=1).take()

    with pytest.raises(MemoryError):
        asyncio.run(use())


def test_lanes_that_take_no_images_are_refused(tmp_path, settings):
    words = a_lane(tmp_path / "words", EngineKind.TRANSFORMERS, TEXT_ONLY)
    turbomind = a_lane(tmp_path / "llava", EngineKind.TURBOMIND, LLAVA, LLAVA_FILES)
    blind = replace(A, endpoint=replace(A.endpoint, vision=False))
    for lane, code in ((words, "text-only"), (turbomind, "engine-without-vision"), (blind, "text-only")):
        plan = a_plan(B, lane, workload=with_images())
        with pytest.raises(InputError, match=f"^{lane.name}: ") as caught:
            check_sendable(plan)
        assert caught.value.code == code
        with pytest.raises(InputError):
            start_bench(settings, plan, gpu=False)
        check_sendable(a_plan(B, lane))


def test_an_image_that_does_not_fit_the_context_is_refused(tmp_path):
    config = LLAVA | {"text_config": LLAVA["text_config"] | {"max_position_embeddings": 512}}
    lane = a_lane(tmp_path / "short", EngineKind.TRANSFORMERS, config, LLAVA_FILES)
    with pytest.raises(InputError, match="576 tokens") as caught:
        check_sendable(a_plan(lane, workload=with_images()))
    assert caught.value.code == "images-too-large"


def test_what_an_image_costs_is_a_mean_and_unknown_for_endpoints(tmp_path):
    lane = a_lane(tmp_path / "llava", EngineKind.PYTORCH, LLAVA, LLAVA_FILES)
    assert image_tokens(lane, (CAT.image, COFFEE.image)) == 576
    assert image_tokens(lane, ()) is None
    assert image_tokens(A, (CAT.image,)) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_images(*[CAT.image] * 65),
        lambda: with_images(*[big(2**26)] * 5),
        lambda: a_plan(A, workload=with_images(big(2**25)), load=Load(concurrencies=(65,)), requests=65),
        lambda: a_plan(
            A, workload=with_images(big(2**25)), load=Load(kind=LoadKind.SWEEP, max_concurrency=128)
        ),
    ],
)
def test_more_than_the_memory_should_hold_is_refused(make):
    with pytest.raises(InputError):
        make()


def test_64_streams_of_a_megabyte_are_fine():
    a_plan(A, workload=with_images(big(2**20)), load=Load(concurrencies=(64,)), requests=64)


def test_a_plan_with_images_is_said_so():
    plan = a_plan(A, workload=with_images())
    assert plan.label == "a · c = 1"
    assert ("Images", "one of 2 images with each request") in [(f.label, f.text) for f in described(plan)]
    assert "image" not in " ".join(advice(plan, gpu=True))
    repeated = a_plan(A, workload=with_images(vary=False))
    assert any("an image seen before" in line for line in advice(repeated, gpu=True))
    examples = a_plan(A, workload=with_images(CAT.image, prompts=PromptKind.EXAMPLES))
    assert ("Images", "an image with each request") in [(f.label, f.text) for f in described(examples)]


def test_a_plan_written_before_there_were_images_is_read():
    plan = json.loads(encode(a_plan(A)))
    del plan["workload"]["images"], plan["workload"]["vary_images"]
    assert decode(type(a_plan(A)), json.dumps(plan)).workload.images == ()


def a_result(workload, *, tokens=None):
    record = a_record(a_plan(A, workload=workload), [a_pass()], [a_request(number) for number in range(3)])
    lanes = (LaneFacts(lane=A, image_tokens=tokens),)
    return replace(record, run=replace(record.run, lanes=lanes))


def test_results_with_images_say_so_everywhere():
    record = a_result(with_images(), tokens=30.0)
    result = results(record)
    (point,) = result.points
    assert (point.images_per_request, point.image_tokens) == (1, 30.0)
    assert any("on average 30 of the prompt's tokens: TTFT includes" in note for note in point.notes)
    assert conditions(result).endswith("with images")
    figure = latency_chart(result, "TTFT", COLORS)
    assert "with images" in figure.layout.title.subtitle.text
    assert "unique noise" in figure.data[-1].customdata[0]
    document = json.loads(bench_to_json(result, record, raw=True))
    assert (document["points"][0]["images_per_request"], document["points"][0]["image_tokens"]) == (1, 30)
    assert [each["sha256"] for each in document["plan"]["workload"]["images"]] == [
        CAT.image.sha256,
        COFFEE.image.sha256,
    ]


def test_results_without_images_don_t_mention_them():
    result = results(a_result(Workload()))
    assert result.points[0].images_per_request == 0
    assert "image" not in " ".join(result.points[0].notes) + conditions(result)


def test_an_exported_run_comes_back_without_the_files():
    record = a_result(with_images(), tokens=30.0)
    back = bench_from_json(bench_to_json(results(record), record, raw=True))
    assert results(back).plan.workload.images == (CAT.image, COFFEE.image)
    assert results(back).points == results(record).points


def warnings(*workloads):
    return " ".join(compare([results(a_result(workload)) for workload in workloads]).warnings)


def test_runs_with_other_images_are_not_the_same_workload():
    both, cat = with_images(), with_images(CAT.image)
    assert "The images differ" in warnings(both, cat)
    assert "The images differ" in warnings(cat, with_images(CAT.image, vary=False))
    text = Workload(prompt_tokens=32, output_tokens=11)
    assert "not all runs have any" in warnings(text, cat)
    assert "prompts or output lengths" not in warnings(text, cat)
    renamed = with_images(replace(CAT.image, name="other.jpg"))
    comparison = compare([results(a_result(cat)), results(a_result(renamed))])
    assert (comparison.warnings, comparison.settings) == ((), ())


def test_a_lane_spec_of_a_remote_vision_model_is_sendable():
    seeing = LaneSpec(
        name="v", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://gpu:1/v1", vision=True)
    )
    check_sendable(a_plan(seeing, workload=with_images()))


def test_an_image_is_a_hash_and_sizes_in_the_plan():
    plan = json.loads(encode(a_plan(A, workload=with_images(CAT.image))))
    assert decode(StoredImage, json.dumps(plan["workload"]["images"][0])) == CAT.image
