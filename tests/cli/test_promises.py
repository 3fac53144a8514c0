"""Promises of SECURITY.md that can be checked in the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "__init__.py", *sorted((ROOT / "mcti_core").rglob("*.py")), *sorted((ROOT / "nodes").rglob("*.py"))]
RECIPE = ROOT / "mcti_core" / "pocket" / "recipe"
"""Makes the pocket checkpoint; nothing imports it."""

HUB = ROOT / "mcti_core" / "tokens" / "hub.py"
"""Methods that a program calls with the name of a repository."""
HUB_CALLS = ["imports huggingface_hub", "hub.hf_hub_download(str(name), _FILE, **download)"]

MODULES = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "subprocess", "pty", "pip", "ensurepip", "venv", "socket", "ssl",
    "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "urllib3", "websockets", "huggingface_hub", "ctypes", "webbrowser",
}  # fmt: skip
"""Modules that run foreign code or programs, or reach a network."""
CALLS = {"eval", "exec", "compile", "__import__"}
LIBRARIES = {"diffusers", "transformers", "torch", "importlib", "sys", "builtins"}
"""Whose classes are never chosen by a name from a file."""
SYSTEM = {"system", "popen", "startfile", "fork", "forkpty"}
"""Of ``os``, and all that begins with exec, spawn or posix_spawn."""


def _place(path):
    return path.relative_to(ROOT).as_posix()


def wrong_in(source):
    """Every line that breaks a promise."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES]
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {ast.unparse(node)[:80]}" for wrong in [_wrong_call(node)] if wrong]
    return found


def _wrong_call(node):
    called = ast.unparse(node.func)
    owner, _, name = called.rpartition(".")
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called == "torch.load":
        return given.get("weights_only") != "True"
    if owner in ("np", "numpy") and name == "load":
        return given.get("allow_pickle", "False") != "False"
    if owner == "os":
        return name in SYSTEM or name.startswith(("exec", "spawn", "posix_spawn"))
    if called in CALLS:
        return True
    if called == "getattr" and node.args and ast.unparse(node.args[0]) in LIBRARIES:
        return True
    return "trust_remote_code" in given or name in ("add_safe_globals", "hf_hub_download", "snapshot_download")


@pytest.mark.parametrize("path", FILES, ids=_place)
def test_nothing_runs_what_it_reads_nor_reaches_a_network(path):
    found = [line.partition(": ")[2] for line in wrong_in(path.read_text(encoding="utf-8"))]
    assert found == (HUB_CALLS if path == HUB else [])


def test_the_hub_is_reached_from_no_node_and_no_command():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if path != HUB:
            assert "push_to_hub" not in text, _place(path)
            assert "TokenSet.from_pretrained(" not in text or path.name == "model_card.py", _place(path)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from urllib.request import urlopen", "import requests as r", "eval(x)", "exec(x)", "torch.load(x)", "os.system(x)",
        "torch.load(x, weights_only=False)", "getattr(diffusers, name)", "os.execv(x)", "np.load(x, allow_pickle=True)", "f.from_pretrained(x, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_reader_sees(source):
    assert wrong_in(source)


def _calls():
    """Every call with its file, but for those of the recipe."""
    for path in FILES:
        if RECIPE not in path.parents:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            yield from ((path, node) for node in nodes if isinstance(node, ast.Call))


def test_only_safetensors_is_written():
    """``torch.save`` and ``np.save`` are in the recipe alone, for its own parts."""
    assert not {"torch.save", "np.save", "np.savez"} & {ast.unparse(call.func) for _, call in _calls()}


def test_images_are_opened_by_readers_from_a_table():
    """Of other kinds, Pillow starts programs (Ghostscript for PostScript)."""
    found = [(path, call) for path, call in _calls() if ast.unparse(call.func) == "Image.open"]
    opened = {_place(path): {keyword.arg for keyword in call.keywords} for path, call in found}
    assert opened == {"mcti_core/tokens/embedding_cards.py": {"formats"}}
    from mcti_core.files.kinds import READ_KINDS

    assert set(READ_KINDS) == {"PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF"}


def test_pytorch_files_are_read_in_one_place():
    readers = [_place(path) for path, call in _calls() if ast.unparse(call.func) == "torch.load"]
    assert readers == ["mcti_core/files/safe_load.py"]


def test_no_routes_are_added_to_the_server_and_one_file_names_the_folders():
    for path in FILES:
        assert "PromptServer" not in path.read_text(encoding="utf-8"), _place(path)
    assert "mcti_folders.txt" in (ROOT / "nodes" / "folders.py").read_text(encoding="utf-8")


def test_scripts_of_the_page_fetch_nothing_and_write_no_text_into_it():
    scripts = sorted((ROOT / "web").rglob("*.js"))
    assert [path.name for path in scripts] == ["advanced_inputs.js", "template_order.js"]
    other = r"HTML|document|window|eval|Function|fetch|Socket|XMLHttp|import\(|storage|beacon|https?:"
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert not re.search(other, text), path.name
        assert set(re.findall(r'from "(.*)"', text)) <= {"../../scripts/app.js", "../../scripts/api.js"}


def test_limits_in_security_are_those_of_the_code():
    from mcti_core.cli import run_config
    from mcti_core.data import label_table
    from mcti_core.evaluation import results
    from mcti_core.files import limits, safe_load, transfer
    from mcti_core.hosts.diffusers import model_folders
    from mcti_core.images import claims, limited_readers
    from mcti_core.tokens import embedding_cards, formats, names

    told = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for text in (
        f"{safe_load.MAX_EMBEDDING_BYTES // 2**20} MiB; {formats._MAX_VECTORS} vectors, each {limits.MAX_WIDTH:,} numbers wide",
        f"| an image with an embedding in it | {embedding_cards._MAX_PIXELS:,} pixels; {embedding_cards._MAX_JSON // 2**20} MiB of JSON |",
        f"| a token set's file | {limits.MAX_SET_BYTES // 2**20:,} MiB |",
        f"safetensors file | {limits.MAX_HEADER_BYTES // 2**20} MiB |",
        f"{limits.MAX_CLASSES:,} classes, labels of {limits.MAX_LABEL:,} characters; {limits.MAX_TEMPLATES:,} templates of "
        f"{limits.MAX_TEMPLATE:,} characters; {limits.MAX_ENCODED:,} classes times templates",
        f"a text in a graph | {limits.MAX_MARKS} |",
        f"for which a logistic probe is fitted | {limits.MAX_LOGITS:,} |",
        f"| a token name | {names.MAX_NAME_BYTES} bytes |",
        f"saved training | {limits.MAX_TRAINING_BYTES // 2**30} GiB; ComfyUI keeps {_constant('checkpoints', '_MAX_STORED')} |",
        f"model folder | {model_folders._MAX_BYTES // 2**20} MiB, {model_folders._MAX_DEPTH} levels; sizes of "
        f"{model_folders._MAX_SETTING:,} (words, steps and labels {model_folders._MAX_COUNT:,}), "
        f"{model_folders._MAX_LAYERS['num_hidden_layers']} hidden layers, {model_folders._MAX_BLOCKS} layers or blocks elsewhere |",
        f"`mcti_folders.txt` | {_constant('folders', '_MAX_BYTES') // 2**20} MiB, {_constant('folders', '_MAX_FOLDERS')} folders |",
        f"command line, or of Token Prompts | {limits.MAX_PROMPT:,} characters, {limits.MAX_BRACKETS} nested brackets |",
        f"a number in a vector that is read | {limits.MAX_NUMBER:,.0f} |",
        f"steps done in a saved training | {limits.MAX_STEPS:,} |",
        f"{_constant('checking', 'MAX_TEXT'):,} characters; with a single line {_constant('checking', 'MAX_TEXT') // 20:,} |",
        f"name to save under | {names._MAX_LEVELS} |",
        f"`--config`) | {run_config._MAX_BYTES // 2**20} MiB; keys of 16 parts, lists of {limits.MAX_TEMPLATES:,} values |",
        f"results file | {results._MAX_BYTES >> 20} MiB; {results._MAX_SHOTS:,} different numbers of shots; numbers of {results._MAX_COUNT:,} |",
        f"a list of moves | {label_table._MAX_BYTES >> 20} MiB; {transfer._MAX_LIST_BYTES >> 20} MiB |",
        f"| an image | {limits.MAX_IMAGE_PIXELS // 10**6} million pixels, {limits.MAX_IMAGE_SIDE:,} on a side, {limits.MAX_IMAGE_BYTES // 2**30} GiB |",
        f"{limits.MAX_METADATA_BYTES // 2**20} MiB; {limited_readers._MAX_READS_TO_OPEN:,} reads of the file, {limits.MAX_IMAGE_READS:,} for the pixels |",
        f"| {claims._MAX_TAGS:,}; {claims._MAX_VALUES:,}; {claims._MAX_TILE_BEYOND:,} |",
        f"a BMP with run lengths | {limited_readers._MAX_DECODED_IN_PYTHON // 10**6} million |",
        f"a JPEG | {limits.MAX_SCANS}, and {limits.MAX_SCANNED_PIXELS / 10**9} billion pixels times passes |",
        f"read at once | {limits.IMAGE_MEMORY // 2**30} GiB |",
    ):
        assert text in told, text


def _constant(module, name):
    """A number in one of the nodes, which need ComfyUI to be imported."""
    source = ast.parse((ROOT / "nodes" / f"{module}.py").read_text(encoding="utf-8"))
    (value,) = [node.value for node in source.body if isinstance(node, ast.Assign) and node.targets[0].id == name]
    return eval(ast.unparse(value), {"__builtins__": {}})
