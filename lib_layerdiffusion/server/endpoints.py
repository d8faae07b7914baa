"""What each route does; `app` says where it is and what becomes of errors."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from lib_layerdiffusion.images.compose import trimmed
from lib_layerdiffusion.images.reading import MAX_PIXELS, encode_picture
from lib_layerdiffusion.methods import METHODS
from lib_layerdiffusion.places import localizations_folder
from lib_layerdiffusion.server.bodies import Body
from lib_layerdiffusion.server.faults import FieldError, MissingError
from lib_layerdiffusion.server.form import check_client, request_schema
from lib_layerdiffusion.server.jobs import Job, State
from lib_layerdiffusion.server.restore import restored_request
from lib_layerdiffusion.server.routes import PREFIX, Routes
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.server.views import layer_file_of, stem_of, zip_of
from lib_layerdiffusion.settings import kinds
from lib_layerdiffusion.version import __version__

PNG = "image/png"
LONGEST_WAIT = 60.0
_TICK, _KEEP = 0.1, 10.0
"""Seconds between two looks at a run, and between two signs of life in a stream of events."""
_TYPES = {"ora": "image/openraster", "psd": "image/vnd.adobe.photoshop", "zip": "application/zip"}


class Json(JSONResponse):
    """JSON in ASCII: what somebody sends may hold halves of characters, which UTF-8 cannot write."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def wants_png(request: Request) -> bool:
    """Whether a request asks for a picture in place of JSON."""
    return request.headers.get("accept", "").lower().startswith(PNG)


def download(content: bytes, media_type: str, name: str, *, inline: bool = False) -> Response:
    """A file. inline: shown rather than saved."""
    plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_. ") else "_" for sign in name)[:150]
    how = "inline" if inline else "attachment"
    headers = {"Content-Disposition": f'{how}; filename="{plain}"', "Cache-Control": "private, max-age=3600"}
    return Response(content, media_type=media_type, headers=headers)


class Facts:
    """Routes that tell what there is."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._shared = Routes(service)

    def model(self) -> Json:
        """The loaded model: defaults, sizes, samplers, what it knows, and what to begin with."""
        languages = sorted(path.stem for path in localizations_folder().glob("*.json"))
        facts = self._service.facts.to_mapping(self._service.thumbnails())
        return Json({**facts, "version": __version__, "languages": languages})

    def schema(self) -> Json:
        """JSON schema of the settings."""
        return Json(self._shared.schema())

    def request_schema(self) -> Json:
        """JSON schema of the body of `generate`."""
        return Json(request_schema(self._service.facts.default_values()))

    def methods(self) -> Json:
        """The methods: what each gives and needs, what to call it, and what goes on from it."""
        told: dict[str, Any] = self._shared.methods()
        rows = [{**row, **self._service.facts.about_method(METHODS[row["label"]])} for row in told["methods"]]
        return Json({**told, "methods": rows})

    def translations(self, language: str) -> Json:
        """English text -> text of a language, for settings and methods."""
        known = {path.stem: path for path in localizations_folder().glob("*.json")}
        if language not in known:
            raise MissingError(f"There is no such language; use one of: {', '.join(sorted(known))}.")
        return Json(json.loads(known[language].read_text(encoding="utf-8")))

    def words(self, body: dict[str, Any]) -> Json:
        """Words of a prompt that the model does not know."""
        prompt = Body(body, self._service.find, "prompt").value("prompt", kinds.text(), "")
        return Json({"unknown": list(self._service.facts.unknown_words(prompt))})

    def status(self) -> Json:
        """How busy the server is, and its limits."""
        running, waiting = self._service.board.counts()
        limits = self._service.limits
        told = {
            "queue": limits.queue,
            "batch": limits.batch,
            "body_bytes": limits.body_bytes,
            "picture_pixels": MAX_PIXELS,
            "kept_seconds": limits.kept_seconds,
            "attended_seconds": limits.attended_seconds,
        }
        workers = len(self._service.workers)
        return Json(
            {"version": __version__, "workers": workers, "running": running, "waiting": waiting, "limits": told}
        )


class Tools:
    """Routes that work on pictures."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._shared = Routes(service)

    def compose(self, request: Request, body: dict[str, Any]) -> Response:
        """Foreground, scaled and moved, over background."""
        return _picture_answer(request, self._shared.compose(body))

    def decode(self, request: Request, body: dict[str, Any]) -> Response:
        """latent, and the picture that it decodes to or nothing -> the picture with alpha."""
        return _picture_answer(request, self._shared.decode(body))

    def encode(self, body: dict[str, Any]) -> Response:
        """A picture with alpha -> the latent that hides it, and the picture that the VAE makes of that."""
        return Json(self._shared.encode(body))

    def layers(self, body: dict[str, Any]) -> Response:
        """Layers, lowest first -> one .ora or .psd file."""
        return Json(self._shared.layers(body))

    def trim(self, request: Request, body: dict[str, Any]) -> Response:
        """A picture cut to what is not transparent."""
        given = Body(body, self._service.find, "picture", "margin", "threshold")
        margin = given.value("margin", kinds.whole(0, 10_000), 0)
        part = trimmed(given.picture("picture"), margin, given.value("threshold", kinds.whole(0, 254), 0))
        height, width = part.picture.shape[:2]
        place = {"left": part.left, "top": part.top, "width": width, "height": height}
        return _picture_answer(request, {"picture": encode_picture(part.picture), **place})

    async def add_picture(self, request: Request) -> Json:
        """Keep a picture that is sent as the bytes of its file, and say what it is."""
        content = await request.body()
        upload = await run_in_threadpool(self._service.uploads.add, content)
        restored, ignored = restored_request(upload.infotext, self._service.facts)
        told = {"name": upload.name, "url": f"{PREFIX}/pictures/{upload.name}", "infotext": upload.infotext or None}
        size = {"width": upload.width, "height": upload.height, "alpha": upload.alpha}
        return Json({**told, **size, "request": restored, "ignored": ignored})

    def picture(
        self, name: str, trim: str = "", margin: int = 0, download_as: str = Query("", alias="download")
    ) -> Response:
        """A result, or a picture that was sent in, as PNG."""
        wanted = margin if trim not in {"", "0", "false"} else None
        content, own = self._service.picture_file(name, wanted)
        return download(content, PNG, download_as or own, inline=not download_as)


def _picture_answer(request: Request, answer: Mapping[str, object]) -> Response:
    """An answer as JSON, or its picture where that is asked for."""
    if not wants_png(request):
        return Json(answer)
    return Response(base64.b64decode(str(answer["picture"]).partition(",")[2]), media_type=PNG)


class Runs:
    """Routes that start runs, follow them and hand out what they made."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._board = service.board

    async def generate(self, request: Request, body: dict[str, Any]) -> Response:
        """Start a run of one step."""
        asked = await run_in_threadpool(self._service.desk.generate, body)
        return await self._begun(request, self._board.add(asked))

    async def chain(self, request: Request, body: dict[str, Any]) -> Response:
        """Start a run of two steps, with a prompt for who and one for the scene."""
        asked = await run_in_threadpool(self._service.desk.chain, body)
        return await self._begun(request, self._board.add(asked))

    async def _begun(self, request: Request, job: Job) -> Response:
        if not wants_png(request):
            return Json(self._service.view(job), status_code=202)
        while not job.state.is_final:
            await asyncio.sleep(_TICK)
            job.look()
            if await request.is_disconnected():
                self._board.stop(job)
        if job.state is not State.DONE:
            raise FieldError(job.error or "The run was stopped.", job.fault or "prompt")
        name = next(name for name in job.picture(0).layers if name in job.asked.method.frames)
        content, own = await run_in_threadpool(self._service.picture_file, f"{job.id}-0-{name}")
        return download(content, PNG, own, inline=True)

    def jobs(self, client: str = "") -> Json:
        """A client's runs, newest first."""
        found = self._board.of_client(check_client(client))
        for job in found:
            job.look()
        return Json({"jobs": [self._service.view(job) for job in found]})

    async def job(self, name: str, wait: str = "0") -> Json:
        """A run; after it has ended, or after `wait` seconds."""
        job = self._board.find(name)
        until = time.monotonic() + float(str(kinds.number(0, LONGEST_WAIT).read("wait", wait)))
        while not job.state.is_final and time.monotonic() < until:
            job.look()
            await asyncio.sleep(_TICK)
        job.look()
        return Json(self._service.view(job))

    def events(self, name: str) -> Response:
        """A run's changes as server-sent events, until it has ended."""
        job = self._board.find(name)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(job), media_type="text/event-stream", headers=headers)

    async def _stream(self, job: Job) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        version, told = -1, time.monotonic()
        while True:
            job.look()
            final, now = job.state.is_final, time.monotonic()
            if job.version != version:
                version, told = job.version, now
                yield f"event: job\ndata: {json.dumps(self._service.view(job))}\n\n"
            elif now - told > _KEEP:
                told = now
                yield ": keep\n\n"
            if final:
                return
            await asyncio.sleep(_TICK)

    def stop(self, name: str) -> Json:
        """End a run that waits or is carried out."""
        job = self._board.find(name)
        self._board.stop(job)
        return Json(self._service.view(job))

    def stop_all(self, body: dict[str, Any]) -> Json:
        """End all runs of a client."""
        given = Body(body, self._service.find, "client")
        client = check_client(given.value("client", kinds.text(), ""))
        active = [job for job in self._board.of_client(client) if not job.state.is_final]
        for job in active:
            self._board.stop(job)
        return Json({"stopped": len(active)})

    def forget(self, name: str) -> Response:
        """Stop a run and keep nothing of it."""
        self._board.forget(self._board.find(name))
        return Response(status_code=204)

    def files(self, name: str) -> Response:
        """All layers of all pictures of a run as one zip."""
        job = self._board.find(name)
        return download(zip_of(job), _TYPES["zip"], f"{stem_of(job, 0)}.zip")

    def layer_file(self, name: str, index: int, ending: str) -> Response:
        """The layers of one picture of a run as one file for an editor."""
        job = self._board.find(name)
        if ending not in {"ora", "psd"}:
            raise MissingError("Layers are given out as .ora or .psd.")
        content = layer_file_of(job, index, f".{ending}")
        return download(content, _TYPES[ending], f"{stem_of(job, index)}.{ending}")
