"""Answer a web request with what its image shows, by FastAPI.

Start it: TOKENS=learned/tokens.safetensors uvicorn --app-dir docs/examples web_service:app
Ask it:   curl --data-binary @photo.jpg http://127.0.0.1:8000/classify
"""

import asyncio
import json
import os
from tempfile import NamedTemporaryFile

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool

from mcti_core import MCTIError, calibrated_classifier, load_pocket, load_tokens

MAX_IMAGE_BYTES = 20_000_000

app = FastAPI()
classifier = calibrated_classifier("clip", load_pocket(), load_tokens(os.environ["TOKENS"]))  # or load_host(...)
one_at_a_time = asyncio.Lock()  # the model uses every core already


@app.post("/classify")
async def classify(request: Request) -> Response:
    """The best three labels with their confidences. 413: the image is too large, 400: it cannot be read."""
    with NamedTemporaryFile() as file:  # a file is read with the limits for untrusted images
        async for part in request.stream():
            file.write(part)
            if file.tell() > MAX_IMAGE_BYTES:
                raise HTTPException(413, f"an image may have at most {MAX_IMAGE_BYTES} bytes")
        file.flush()
        try:
            async with one_at_a_time:
                (answer,) = await run_in_threadpool(classifier, file.name, top=3)
        except MCTIError as error:
            raise HTTPException(400, str(error).replace(file.name, "the file")) from error
    # in ASCII, since a label from a folder whose name is not UTF-8 has an invalid character (a lone surrogate)
    return Response(json.dumps(answer.record()), media_type="application/json")
