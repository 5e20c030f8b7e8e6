"""The `openai` package against a gateway: python openai_client.py http://127.0.0.1:7860"""

import base64
import io
import json
import sys
import urllib.request

import openai

PNG = b"\x89PNG\r\n\x1a\n"


def main(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    models = client.models.list().data
    assert len(models) == 1, models
    model = models[0].id
    assert client.models.retrieve(model).id == model

    extra = {"seed": 42, "steps": 2, "guidance_scale": 1.0, "negative_prompt": "blurry",
             "scheduler": "unipc", "template": "minimalist", "loras": []}
    answer = client.images.generate(
        model=model, prompt="a red apple", n=2, size="128x128", extra_body=extra)
    pictures = [base64.b64decode(data.b64_json) for data in answer.data]
    assert len(pictures) == 2 and all(p.startswith(PNG) for p in pictures)
    assert pictures[0] != pictures[1] and answer.size == "128x128"
    assert [data.seed for data in answer.data] == [42, 43]
    again = client.images.generate(prompt="a red apple", size="128x128", extra_body=extra)
    assert base64.b64decode(again.data[0].b64_json) == pictures[0], "the same seed, another picture"

    jpeg = client.images.generate(
        prompt="a fox", size="128x128", output_format="jpeg", output_compression=50,
        extra_body={"steps": 1})
    assert base64.b64decode(jpeg.data[0].b64_json).startswith(b"\xff\xd8\xff")
    linked = client.images.generate(
        prompt="a fox", size="128x128", response_format="url", extra_body={"steps": 1})
    with urllib.request.urlopen(linked.data[0].url) as file:
        assert file.read().startswith(PNG)

    kinds = []
    for event in client.images.generate(
            prompt="a red apple", size="128x128", stream=True, partial_images=2,
            extra_body={"seed": 42, "steps": 4}):
        kinds.append(event.type)
        assert base64.b64decode(event.b64_json)
    assert kinds[-1] == "image_generation.completed", kinds
    # Only a model that makes previews has partial images.
    with urllib.request.urlopen(f"{url}/api/model") as answer:
        partial = 2 if json.load(answer)["previews"] else 0
    assert kinds[:-1] == ["image_generation.partial_image"] * partial, kinds

    source = io.BytesIO(pictures[0])
    source.name = "apple.png"
    edited = client.images.edit(
        image=source, prompt="a green apple", size="128x128",
        extra_body={"strength": 0.5, "steps": 4, "seed": 1})
    assert base64.b64decode(edited.data[0].b64_json).startswith(PNG)
    source.seek(0)
    events = list(client.images.edit(image=source, prompt="a green apple", stream=True))
    assert events[-1].type == "image_edit.completed", events

    for status, arguments in [
            (400, {"prompt": ""}),
            (400, {"prompt": "x", "size": "250x250"}),
            (404, {"prompt": "x", "model": "gpt-image-1"}),
            (400, {"prompt": "x", "extra_body": {"stepz": 3}}),
    ]:
        try:
            client.images.generate(**arguments)
        except openai.APIStatusError as error:
            assert error.status_code == status, (arguments, error)
            assert error.body["message"], error.body
        else:
            raise AssertionError(f"{arguments} was taken")
    print(f"openai {openai.__version__} works")


if __name__ == "__main__":
    main(sys.argv[1])
