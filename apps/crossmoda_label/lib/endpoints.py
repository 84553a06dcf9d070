"""MONAI Label's endpoints with checked arguments, at work in threads.

Each of them is declared ``async`` and does slow work, so that one save would keep everybody waiting, and takes the
names that it is given as paths. They are registered once more, before the originals: the same functions, whose
arguments are checked first, and which then run in a thread.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    info,
    logs,
    model,
    ohif,
    scoring,
    session,
    train,
)
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import device_map
from starlette.datastructures import UploadFile

from crossmoda.data.naming import EXTENSIONS, extension_of, stem_of
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_access import ANNOTATOR, REVIEWER
from crossmoda.self_training.review_info import parse_object, require_client_id, require_image_info, require_plain
from crossmoda.self_training.review_store import check_image_id, check_tag
from lib.access import requesting_user
from lib.answers import answering_client_errors
from lib.sessions import SESSION_ID, without_places

MODULES = (activelearning, batch_infer, datastore, infer, info, logs, model, ohif, scoring, session, train)
NOT_SERVED = {  # endpoint -> why
    model.api_update_model: "the model is the run's own; train a round instead of uploading one",
    model.api_delete_model: "the model is the run's own; delete the run's folder by hand",
}
# How many run at once: one inference, since memory holds one; one start of a task, since MONAI Label looks and then
# starts; a few saves, which wait for the store's lock and must not take all threads meanwhile.
AT_ONCE = {"inference": 1, "tasks": 1, "saves": 4}
GROUPS = {
    infer.api_run_inference: "inference",
    batch_infer.api_run: "inference",
    train.api_run: "tasks",
    train.api_run_model: "tasks",
    train.api_stop: "tasks",
    scoring.api_run: "tasks",
    scoring.api_run_method: "tasks",
    datastore.api_save_label: "saves",
    datastore.api_add_image: "saves",
    datastore.api_update_label_info: "saves",
    datastore.api_put_label_info: "saves",
    datastore.api_put_image_info: "saves",
}
# What MONAI Label sets in a request by itself and then trusts: paths that it reads, imports or runs.
SERVERS_OWN = ("bundle_path", "image_path", "session", "model_filename", "skip_writer", "result_write_to_file", "label")
RESULT_TYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
MOST_LOG_LINES = 100_000
VIEWER_POLICY = (  # OHIF compiles its decoders from within pages
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_CHECKSUM = re.compile(r"((SHA256|SHA512|MD5):)?[0-9a-fA-F]{32,128}")

Arguments = dict[str, Any]


def _from_here_alone(answer: Any) -> Any:
    """Let the viewer's page ask no other server; it would fetch its font from one."""
    answer.headers["Content-Security-Policy"] = VIEWER_POLICY
    return answer


AFTERWARDS = {session: without_places, ohif: _from_here_alone}  # what is done with answers


def serve_checked_endpoints(app: FastAPI) -> None:
    """Register MONAI Label's endpoints once more, checked and in threads, before the originals."""
    known = len(app.router.routes)
    limiters = {group: CapacityLimiter(number) for group, number in AT_ONCE.items()}
    for module in MODULES:
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                limiter = limiters.get(GROUPS.get(route.endpoint, ""))
                app.add_api_route(
                    settings.MONAI_LABEL_API_STR + route.path,
                    _checked(route.endpoint, module, limiter),
                    methods=sorted(route.methods or ()),
                    include_in_schema=False,  # the originals describe themselves
                )
    for method in ("wsi", "wsi_v2"):
        app.add_api_route(f"{settings.MONAI_LABEL_API_STR}/infer/{method}/{{model}}", _no_slides, methods=["POST"])
    routes = app.router.routes
    routes[:] = routes[known:] + routes[:known]


def _no_slides(model: str) -> None:
    raise HTTPException(404, "whole-slide images are not served here")


def _checked(endpoint: Callable[..., Any], module: Any, limiter: CapacityLimiter | None) -> Callable[..., Any]:
    signature = inspect.signature(endpoint)

    async def call(**arguments: Any) -> Any:
        return await to_thread.run_sync(_call, endpoint, module, arguments, limiter=limiter)

    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__name__ = endpoint.__name__
    return call


def _call(endpoint: Callable[..., Any], module: Any, arguments: Arguments) -> Any:
    """Check the arguments and run an endpoint, which is ``async`` and awaits nothing."""
    if endpoint in NOT_SERVED:
        raise HTTPException(403, NOT_SERVED[endpoint])
    with answering_client_errors():
        _check(module, endpoint, arguments)
    try:
        with answering_client_errors(422):  # what only the work finds, such as a damaged label
            value = _value_of(endpoint(**arguments))
        return AFTERWARDS[module](value) if module in AFTERWARDS else value
    except HTTPException as error:
        _clean_up(arguments)
        if error.status_code == 500:  # MONAI Label's word for a request that lacks something
            raise HTTPException(400, error.detail) from error
        raise
    except BaseException:
        _clean_up(arguments)
        raise


def _value_of(work: Any) -> Any:
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError(f"{work.__name__} waits for something; it cannot run in a thread")


def _clean_up(arguments: Arguments) -> None:
    """Delete the received files, which MONAI Label does after good answers only."""
    tasks = arguments.get("background_tasks")
    for task in tasks.tasks if tasks else []:
        task.func(*task.args, **task.kwargs)


def _check(module: Any, endpoint: Callable[..., Any], arguments: Arguments) -> None:
    """Refuse arguments that name anything outside the store, or that the endpoint would stumble over.

    Raises:
        CrossmodaError: with the reason.
        HTTPException: 404 for what is not there, 403 for a verdict by an annotator.
    """
    _check_names(module, arguments)
    for key in ("params", "info"):
        _check_params(module, key, arguments.get(key))
    for value in arguments.values():
        for upload in value if isinstance(value, list) else [value]:
            if isinstance(upload, UploadFile):
                _check_upload(upload, module)
    specific = {
        infer: _check_inference,
        batch_infer: _check_batch,
        train: _check_training,
        activelearning: _check_strategy,
        session: _check_session,
        logs: _check_logs,
        ohif: _check_ohif,
    }
    if module in specific:
        specific[module](arguments)
    if endpoint is datastore.api_add_image and not arguments["image"]:
        # MONAI Label would cut the name at its first dot.
        arguments["image"] = check_image_id(stem_of(arguments["file"].filename))
    if module is datastore and endpoint is not datastore.api_add_image:
        _require_image_in_store(arguments)
    if endpoint is datastore.api_put_image_info:
        require_image_info(parse_object(arguments["info"], "info"))
    if endpoint is datastore.api_save_label:
        _require_no_verdict_by_annotator(arguments["params"])


def _check_names(module: Any, arguments: Arguments) -> None:
    named = [arguments.get(key) for key in ("image", "label", "id")]
    for image_id in named if module is datastore else []:
        if isinstance(image_id, str):
            check_image_id(image_id)
    if isinstance(arguments.get("tag"), str):
        check_tag(arguments["tag"])
    for key in ("model", "method", "strategy"):
        if isinstance(arguments.get(key), str) and not _NAME.fullmatch(arguments[key]):
            raise CrossmodaError(f"{key} {arguments[key][:60]!r}: no such {key}")
    if module in (infer, model, batch_infer, train) and arguments.get("model"):
        app_instance().bundle_path(arguments["model"])
    methods = app_instance().info()["scoring"] if arguments.get("method") else {}
    if arguments.get("method") and arguments["method"] not in methods:
        raise HTTPException(404, f"method '{arguments['method']}': unknown; use one of {', '.join(methods)}")
    if arguments.get("check_sum") and not _CHECKSUM.fullmatch(arguments["check_sum"]):
        raise CrossmodaError("check_sum: write SHA256: and 64 hexadecimal digits")


def _check_params(module: Any, key: str, value: Any) -> None:
    if isinstance(value, str):
        value = parse_object(value, key)
    if not isinstance(value, dict):
        return
    require_plain(value, key)
    require_client_id(value)
    for own in SERVERS_OWN:
        if own in value and module is not datastore:
            raise CrossmodaError(f"{key}: '{own}' is set by the server; leave it out")


def _check_upload(upload: UploadFile, module: Any) -> None:
    """Refuse a file of an unknown format; of its name only the last part is kept, since clients send whole paths."""
    name = PurePosixPath((upload.filename or "").replace("\\", "/")).name
    extension = extension_of(name)
    if extension is None:
        raise CrossmodaError(f"file name: ends in none of {', '.join(EXTENSIONS)}; convert the file")
    if not name or name.startswith(".") or len(name.encode(errors="replace")) > 200 or not name.isprintable():
        raise CrossmodaError("file name: hidden, longer than 200 bytes or not printable; rename the file")
    upload.filename = name


def _check_inference(arguments: Arguments) -> None:
    if arguments.get("session_id"):
        _check_session(arguments)
        if app_instance().sessions().get_session(arguments["session_id"]) is None:
            raise HTTPException(404, f"session '{arguments['session_id']}': unknown or ended; open one first")
    elif arguments.get("image"):
        _require_image_in_store(arguments)
    params = parse_object(arguments["params"], "params")
    if arguments.get("output") == "dicom_seg":
        _require_series(arguments)
        arguments["params"] = json.dumps({"label_info": [], **params})  # MONAI Label wants some; names are the model's
    _require_address_s_own(arguments, params, "model")
    user = requesting_user()
    if params.get("save_label") and user is not None and not user.may(ANNOTATOR):
        raise HTTPException(403, f"{user.name} is {user.role}; a label is saved by an annotator")
    _check_wishes(params)


def _check_wishes(params: Arguments) -> None:
    """Refuse a result of a form, or on a device, that there is not, and a scan that the store does not hold."""
    extension, kind = params.get("result_extension"), params.get("result_dtype")
    if extension and extension not in EXTENSIONS:
        raise CrossmodaError(f"result_extension: use one of {', '.join(EXTENSIONS)}")
    if kind and kind not in RESULT_TYPES:
        raise CrossmodaError(f"result_dtype: use one of {', '.join(RESULT_TYPES)}")
    if not isinstance(params.get("result_compress", False), bool):
        raise CrossmodaError("result_compress: give true or false")
    if params.get("image") is not None and not app_instance().datastore().has_image(str(params["image"])):
        raise HTTPException(404, f"image '{str(params['image'])[:60]}': not in the store")
    _check_device(params.get("device"))


def _require_series(arguments: Arguments) -> None:
    if not isinstance(app_instance().datastore(), DICOMWebDatastore):
        raise CrossmodaError("output: DICOM SEG needs a DICOMweb server; the scans are in a folder")
    if not arguments.get("image") or arguments.get("session_id") or arguments.get("file"):
        raise CrossmodaError("output: DICOM SEG is made for a series of the DICOMweb server; name it as image")


def _check_device(device: Any) -> None:
    known = {"cpu", "cuda", *device_map(), *(f"cuda:{index}" for index in range(torch.cuda.device_count()))}
    if not torch.cuda.is_available() and str(device).startswith("cuda"):  # MONAI Label takes the CPU instead
        return
    if device and (not isinstance(device, str) or device not in known):
        raise CrossmodaError(f"device: use one of {', '.join(sorted(known))}")


def _check_batch(arguments: Arguments) -> None:
    params = arguments.get("params") or {}
    if "model" in arguments:
        for key in ("model", "images"):  # the address says which
            if key in params:
                raise CrossmodaError(f"{key}: named in the address; leave it out of the body")
        app_instance().require_batch(arguments["model"])
        _check_device(params.get("device"))


def _check_training(arguments: Arguments) -> None:
    """Refuse what cannot be trained, and options that are not what they can be, before a process is started for them.

    A request for all trainers (deprecated) names each one's options under its own name; there is but one.
    """
    if arguments.get("run_sync"):
        raise CrossmodaError("run_sync: a round is trained in a process of its own; leave it out")
    if "params" not in arguments:  # a request for the state, or to stop
        return
    options = dict(arguments["params"] or {})
    for trainer in [arguments["model"]] if "model" in arguments else list(app_instance().info()["trainers"]):
        own = options.pop(trainer, {})
        if not isinstance(own, dict):
            raise CrossmodaError(f"{trainer}: not a JSON object; send its options")
        options |= own
        if options.pop("model", trainer) != trainer:
            raise CrossmodaError(f"model: another one than '{trainer}'; leave it out")
        app_instance().require_training(trainer, options)
    _check_device(options.get("device"))
    arguments["params"] = options


def _check_strategy(arguments: Arguments) -> None:
    _require_address_s_own(arguments, arguments.get("params") or {}, "strategy")


def _require_address_s_own(arguments: Arguments, params: Arguments, key: str) -> None:
    """Refuse parameters that name another model or strategy than the address, which alone has been checked."""
    if params.get(key, arguments[key]) != arguments[key]:
        raise CrossmodaError(f"{key}: another one than in the address; leave it out")


def _check_session(arguments: Arguments) -> None:
    if arguments.get("uncompress"):
        raise CrossmodaError("uncompress: archives are not unpacked here; send the scan's own file")
    if len(arguments.get("files") or []) > 1:
        raise CrossmodaError("files: more than one; send the scan as one file, such as .nii.gz")
    session_id = arguments.get("session_id")
    if session_id is not None and not SESSION_ID.fullmatch(session_id):
        raise HTTPException(404, f"session {session_id[:60]!r}: unknown; open one first")


def _check_logs(arguments: Arguments) -> None:
    if "lines" not in arguments:  # the GPU's state
        if shutil.which("nvidia-smi") is None:
            raise HTTPException(404, "nvidia-smi: not on this machine")
        return
    arguments["html"] = False  # MONAI Label's page loads its scripts from the internet
    if arguments["lines"] is None or not 0 < arguments["lines"] <= MOST_LOG_LINES:
        raise CrossmodaError(f"lines: give a number from 1 to {MOST_LOG_LINES}")


def _check_ohif(arguments: Arguments) -> None:
    path = str(arguments.get("path") or "")
    if not re.fullmatch(r"[A-Za-z0-9_./+-]*", path) or ".." in path:
        raise HTTPException(404, "no such page")
    if path and (Path(ohif.__file__).parent / "static" / "ohif" / path.strip("/")).is_dir():
        raise HTTPException(404, "no such page")


def _require_image_in_store(arguments: Arguments) -> None:
    for key in ("image", "label", "id"):
        image_id = arguments.get(key)
        if isinstance(image_id, str) and not app_instance().datastore().has_image(image_id):
            raise HTTPException(404, f"image '{image_id[:60]}': not in the store; ask for the next sample again")


def _require_no_verdict_by_annotator(params: str) -> None:
    user, meta = requesting_user(), parse_object(params, "params").get("segmentationMeta")
    if user is not None and not user.may(REVIEWER) and isinstance(meta, dict) and meta.get("status") != "segmented":
        raise HTTPException(403, f"{user.name} is {user.role}; a verdict needs the role {REVIEWER}")
