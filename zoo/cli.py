"""The `zoo` command. `zoo COMMAND --help` shows an example of each.

Nothing heavy is imported before a command needs it: `zoo list`, `zoo info` and `--help` do not wait for torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from zoo import files, registry
from zoo.errors import CorruptArtifact, ZooError

EXPORTED = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}

EXIT_FAILED, EXIT_ERROR = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command: 0, 1 where something differs from its record, 2 for an error."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.version:
        import zoo

        print(f"zoo {zoo.__version__}")
        return 0
    if args.run is None:
        parser.print_help()
        return EXIT_ERROR
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except ZooError as error:
        return _fail(str(error))
    except BrokenPipeError:  # `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a file that cannot be read or written
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> int:
    print(f"zoo: {message}", file=sys.stderr)
    return EXIT_ERROR


# ---------------------------------------------------------------------------------------------- list, info


def _list(args: argparse.Namespace) -> int:
    names, broken = registry.ids(args.pattern), []
    if not names:
        ids = registry.ids()
        alternatives = f"known: {', '.join(ids)}" if ids else f"none in {', '.join(map(str, registry.roots()))}"
        raise ZooError(f"no entry matches {args.pattern!r}; {alternatives}")
    rows, records = [], []
    for name in names:
        try:
            entry = registry.find(name)
        except ZooError as error:
            broken.append(str(error))
            continue
        error = "not measured" if entry.top1_error is None else f"{entry.top1_error:.2f} %"
        size = f"{entry.size_bytes:,}" + ("*" if entry.decoded else "")
        rows.append((name, entry.network, size, f"{entry.ratio:,.1f}x", error))
        records.append({"id": name, "network": entry.network, "size_bytes": entry.size_bytes, "ratio": entry.ratio,
                        "top1_error": entry.top1_error, "decoded_by_authors": entry.decoded is not None})  # fmt: skip
    if args.json:
        _json(records)
    else:
        _table(("id", "network", "bytes", "ratio", "error"), rows, right=(2, 3, 4))
        if any(size.endswith("*") for _, _, size, *_ in rows):
            print("* of a stream that only its authors' decoder reads")
    for message in broken:
        _fail(message)
    return EXIT_ERROR if broken else 0


def _json(content: object) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False))


def _info(args: argparse.Namespace) -> int:
    entry = registry.described(args.id)
    if isinstance(entry, Path):
        return _info_of_file(args, entry)
    if args.json:
        _json(entry.record())
        return 0
    lines = []
    for name, value in entry.record().items():
        if value in (None, "", [], {}, ()) or name in ("schema", "test_errors", "test_examples"):
            continue
        if name == "size_bytes":
            value = f"{value:,} (1/{entry.ratio:,.1f} of the uncompressed network)"
        elif isinstance(value, dict):
            value = _listed(value)
        elif name in ("seeds", "samples"):
            value = "\n".join(map(_listed, value))
        elif name == "quoted" and value in registry.quoted():
            row = registry.quoted()[value]
            value = f"{row.method}: {row.size}, {row.error:g} % ({row.note}: {row.source})"
            value += f"\nfrom published weights: {row.command}" if row.command else ""
        elif isinstance(value, int):
            value = f"{value:,}"
        lines.append((name, str(value)))
        if name == "test_set":
            errors = f"{entry.test_errors:,} of {entry.test_examples:,} ({entry.top1_error:.2f} %)"
            lines.append(("test_errors", errors))
    lines.append(("folder", str(entry.folder)))
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        print(f"{name:<{width}}" + value.replace("\n", "\n" + " " * width))
    return 0


def _info_of_file(args: argparse.Namespace, path: Path) -> int:
    import zoo

    file = zoo.info(path)
    if args.json:
        _json(file.record())
        return 0
    classes = ", ".join(file.classes[:10]) + (f" ... ({len(file.classes)})" if len(file.classes) > 10 else "")
    size = f"{file.size_bytes:,} (1/{file.ratio:,.1f} of 4 bytes a number)"
    rows = (("file", str(path)), ("version", f"{file.version} of the format"), ("network", file.network or "none named"),
            ("numbers", f"{file.parameters:,}"), ("size_bytes", size), ("sha256", file.sha256),
            ("preprocessing", str(file.preprocessing or "not said")), ("classes", classes or "not named"))  # fmt: skip
    for name, value in rows:
        print(f"{name:<15}{value}")
    return 0


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


# ---------------------------------------------------------------------------------------------- show


def _show(args: argparse.Namespace) -> int:
    from zoo import codec, partitionings, verify

    entry = registry.locate(args.id)
    blob = registry.read(entry)
    header = codec.read_header(blob)
    if header.version == codec.described.VERSION:
        description, breakdown, start = codec.described.anatomy(blob)

        subject = f"{header.network or 'no name of a network'}, {len(description.tensors)} tensors"
        stream = len(blob) - 4 - start - sum(group.psi_bytes + group.table_bytes for group in breakdown)
    else:
        _, breakdown = codec.anatomy(blob, partitionings.layout)
        subject = f"{header.network}, partitioning {header.partitioning}"
        places = {section: end - start for section, start, end in verify.sections(blob, breakdown)}
        start, stream = places["the header"], places["the stream of symbols"]
    coded = sum(group.coded_bits for group in breakdown) / 8
    header_name = "header: magic, version, length, names, counts"
    overhead = [("end of the stream", stream - coded), (header_name, start), ("checksum", 4)]
    if args.json:
        groups = [vars(group) for group in breakdown]
        _json({"network": header.network, "version": header.version, "numbers": header.parameters, "size_bytes": len(blob),
               "header_bytes": start, "stream_bytes": stream, "groups": groups})  # fmt: skip
        return 0
    bits_a_number = 8 * len(blob) / max(header.parameters, 1)
    print(f"{args.id}: {subject}")
    print(f"{header.parameters:,} numbers in {len(blob):,} bytes, {bits_a_number:.3f} bits each\n")
    rows = []
    for group in breakdown:
        share = group.psi_bytes + group.table_bytes + group.coded_bits / 8
        bits_a_weight = f"{8 * share / group.symbols:.3f}" if group.symbols else ""
        rows.append((group.group, group.decoder, group.model, f"{group.symbols:,}", f"{group.ideal_bits:,.0f}",
                     bits_a_weight, f"{group.coded_bits / 8:,.1f}", f"{group.table_bytes:,}", f"{group.psi_bytes:,}",
                     f"{share:,.1f}"))  # fmt: skip
    summed = ("symbols", "ideal_bits", "table_bytes", "psi_bytes")
    totals = [sum(getattr(group, field) for group in breakdown) for field in summed]
    head = ("group", "decoder", "model", "symbols", "ideal bits", "bits/weight", "coded", "tables", "psi", "bytes")
    for name, size in overhead:
        rows.append((name, *[""] * 8, f"{size:,.1f}"))
    total = totals[2] + totals[3] + coded + sum(size for _, size in overhead)
    rows.append(("the whole file", "", "", f"{totals[0]:,}", f"{totals[1]:,.0f}", f"{8 * total / max(totals[0], 1):.3f}",
                 f"{coded:,.1f}", f"{totals[2]:,}", f"{totals[3]:,}", f"{total:,.1f}"))  # fmt: skip
    _table(head, rows, right=range(3, 10))
    print(_LEGEND)
    if paper := getattr(entry, "paper_bytes", None):  # a bare file has no record
        print(f"\nby the counting of the method's paper: {paper:,} bytes ({entry.paper_counting})")
    return 0


_LEGEND = """
coded        bytes of the symbols                       tables   of their probability tables
ideal bits   code length of the symbols under these     psi      of the decoder's flags, name and numbers
bits/weight  all bytes of the group, over its symbols"""


# ---------------------------------------------------------------------------------------------- verify


def _verify(args: argparse.Namespace) -> int:
    for name in args.ids:  # an unknown id is an error before torch is loaded
        with contextlib.suppress(CorruptArtifact):  # a problem of that entry alone, told with the others
            registry.described(name)
    names = args.ids or registry.ids()
    if not names:
        raise ZooError(f"there is nothing to verify: no entries in {', '.join(map(str, registry.roots()))}")
    import torch
    from tqdm import tqdm

    from zoo import verify

    if args.threads:
        torch.set_num_threads(args.threads)
    jobs = args.jobs or (1 if args.threads or args.device != "cpu" else _cores())
    _check_device(args.device)
    width = max(map(len, names)) + 2
    statuses, results, stated = [], [], set()
    for outcome in verify.verify(
        names, bytes_only=args.bytes_only, data_root=args.data, sample_root=args.sample, device=args.device, jobs=jobs
    ):
        statuses.append(outcome.status)
        stated |= set(outcome.stated)
        fields = ("id", "status", "size_bytes", "errors", "examples", "problems", "notes", "stated", "unavailable", "seconds")
        results.append({name: getattr(outcome, name) for name in fields})
        if args.json:
            continue
        size = "" if outcome.size_bytes is None else f"{outcome.size_bytes:,} bytes"
        errors = ""
        if outcome.errors is not None:
            errors = f"{outcome.errors:,} of {outcome.examples:,} wrong ({100 * outcome.errors / outcome.examples:.2f} %)"
        with tqdm.external_write_mode():  # above the line that says what remains
            print(f"{outcome.id:<{width}}{size:>16}  {errors:<32}{outcome.seconds:6.1f} s  {outcome.status}")
            for text in outcome.problems + ([outcome.unavailable] if outcome.unavailable else []):
                print("    " + text.replace("\n", "\n    "))
            for note in outcome.notes:
                print(f"    note: {note}")
            sys.stdout.flush()
    if stated and not args.json:
        print(f"stated in records, not checked here: {', '.join(sorted(stated))}")
    agreeing = statuses.count("OK")
    subject = "bytes, digests and golden outputs" if args.bytes_only else "records"
    if args.json:
        _json(results)
    else:
        print(f"{agreeing} of {len(statuses)} entries agree with their {subject}")
    if "FAILED" in statuses:
        return EXIT_FAILED
    return 0 if agreeing == len(statuses) else EXIT_ERROR


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------- predict, decode


def _predict(args: argparse.Namespace) -> int:
    source = registry.described(args.id)
    missing = [path for path in args.image if not path.is_file()]
    if missing:
        raise ZooError(f"no such file: {', '.join(map(str, missing))}")
    import torch

    import zoo
    from zoo.datasets import pictures

    _check_device(args.device)
    network, transform = zoo.load(args.id, device=args.device), zoo.transforms(args.id)
    classes = None if isinstance(source, Path) and not zoo.info(source).classes else zoo.classes(args.id)
    name, status, results = source if isinstance(source, Path) else source.id, 0, []
    for path in args.image:
        try:
            batch = transform([pictures.read(path)])
        except (ZooError, OSError) as error:
            message = str(error) if str(path) in str(error) else f"{path} is no readable picture ({error})"
            status = _fail(message)
            results.append({"picture": str(path), "error": message})
            continue
        with torch.inference_mode():
            chances = network(batch.to(args.device))[0].softmax(0)
        top = chances.topk(min(args.top, len(chances)))
        best = [(chance, classes[i] if classes else f"class {i}", i)
                for chance, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]  # fmt: skip
        results.append({"picture": str(path), "classes": [{"name": n, "index": i, "probability": c} for c, n, i in best]})
        if not args.json:
            print(f"{path}  ({name})")
            for chance, label, _ in best:
                print(f"  {100 * chance:6.2f} %  {label}")
    if args.json:
        _json(results)
    return status


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both, over many lines
        raise ZooError(f"--device {device}: {str(error).splitlines()[0]}") from error


def _decode(args: argparse.Namespace) -> int:
    args.to, args.input = "safetensors", None
    return _export(args)


def _export(args: argparse.Namespace) -> int:
    blob = registry.read(registry.locate(args.id))
    import zoo
    from zoo import codec, export, loading

    header = codec.read_header(blob)
    if args.to == "safetensors":
        state = loading.state_dict(blob)
        data = export.safetensors(state, {"format": "pt", "network": header.network, "entry": str(args.id)})
    else:
        network = zoo.from_bytes(blob)
        shape = args.input or getattr(network, "input_size", None)
        if shape is None:
            raise ZooError(f"{args.id} does not say how large its input is: --input 3x224x224")
        data = (export.onnx if args.to == "onnx" else export.torch_export)(network, shape)
    out = args.out or Path(Path(args.id).name.removesuffix(".zoo") + EXPORTED[args.to])
    files.write(out, data)
    times = f"{len(data) / len(blob):,.1f} times the {len(blob):,} of the model file"
    print(f"{out}: {header.network or 'a network without a name'}, {header.parameters:,} numbers, {len(data):,} bytes, {times}")
    return 0


# ---------------------------------------------------------------------------------------------- compress


def _compress(args: argparse.Namespace) -> int:
    from zoo.compress import command

    return command.main(args)


# ---------------------------------------------------------------------------------------------- the Hub


def _push(args: argparse.Namespace) -> int:
    from zoo import hub

    print(f'zoo.load("{hub.push(args.id, args.repo, private=args.private, move=args.move)}")')
    return 0


def _index(args: argparse.Namespace) -> int:
    from zoo import hub

    path = hub.make_index(args.folder, args.references)
    print(f"{path}: {len(registry.read_index(path))} entries; ZOO_ARTIFACTS={args.folder} makes them known by their ids")
    return 0


# ---------------------------------------------------------------------------------------------- data


def _data(args: argparse.Namespace) -> int:
    from zoo import datasets
    from zoo.datasets import sources

    root = os.environ.get("ZOO_DATA")
    print(f"local folder  {root or 'none; set ZOO_DATA to one'}\ncache         {datasets.cache_folder()}")
    places = {None: "not there yet: `zoo data fetch` brings it", "cache": "in the cache", "package": "comes with the package"}
    width = max(map(len, datasets.DATASETS))
    for name, dataset in datasets.DATASETS.items():
        for split, official in dataset.splits.items():
            print(f"{name:<{width}} {split:<5} {official.shape[0]:>6,} images  {places[sources.place(dataset, split)]}")
        if not dataset.downloadable:
            print(f"{name:<{width + 6}} bring your own: `zoo verify --data FOLDER`, a folder of class folders")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from zoo import datasets

    names = [name for name, dataset in datasets.DATASETS.items() if dataset.downloadable]
    if args.dataset not in names:
        raise ZooError(f"no data set {args.dataset!r} can be fetched; those that can: {', '.join(names)}")
    for split in datasets.get(args.dataset).splits:
        images = datasets.load(args.dataset, split)
        print(f"{args.dataset} {split}: {len(images):,} images, digest {images.digest}")
    return 0


# ---------------------------------------------------------------------------------------------- the parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo",
        description="Neural networks in a few kilobytes: load them, look into them, re-derive every number about them.",
        epilog="example: zoo verify --bytes-only",
    )
    parser.set_defaults(run=None)
    parser.add_argument("--version", action="store_true", help="print the version of this library")
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, run: Callable, help: str, example: str, to=commands) -> argparse.ArgumentParser:
        command = to.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example: {example}",
        )
        command.set_defaults(run=run)
        return command

    command = add("list", _list, "the entries, with their bytes and errors", "zoo list 'lenet*'")
    command.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern of ids (default: all)")
    command.add_argument("--json", action="store_true", help="as JSON")

    command = add("info", _info, "the record of an entry", "zoo info lenet5-caffe-sq --json")
    command.add_argument("id", metavar="ID", help="id, or path of a model file or of an entry's folder")
    command.add_argument("--json", action="store_true", help="as in its entry.json")

    command = add("show", _show, "where the bytes of a model file go", "zoo show lenet5-caffe-sq")
    command.add_argument("id", metavar="ID", help="id, or path of a model file")
    command.add_argument("--json", action="store_true", help="as JSON")

    derived = "bytes, digests, network, parameters, golden outputs, predictions and errors"
    command = add("verify", _verify, f"derive {derived} again, from the files", "zoo verify lenet5-caffe-sq")
    command.add_argument("ids", nargs="*", metavar="ID", help="entries, or paths of theirs or of files (default: all entries)")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.add_argument("--bytes-only", action="store_true", help="no test set: length, digests, decoding, golden outputs")
    command.add_argument("--data", type=Path, metavar="PATH",
                         help="ImageNet as class folders, for ImageNet entries: errors on its validation set "
                              "(the other data sets: ZOO_DATA, see `zoo data`)")  # fmt: skip
    command.add_argument("--sample", type=Path, metavar="PATH", help="folder of a sample of ImageNet that records name")
    command.add_argument("--jobs", type=_positive, metavar="N",
                         help="batches at a time, each on one thread (default: as many as there are cores)")  # fmt: skip
    command.add_argument("--threads", type=_positive, metavar="N", help="of torch, for one batch at a time, instead of --jobs")
    command.add_argument("--device", default="cpu", help="where networks run (default: cpu)")

    command = add("predict", _predict, "the classes of some pictures", "zoo predict resnet50-dft cat.jpg dog.jpg")
    command.add_argument("id", metavar="ID", help="id, or path of a model file")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.add_argument("--device", default="cpu", help="where the network runs (default: cpu)")
    command.add_argument("image", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument("--top", type=_positive, default=5, metavar="K", help="classes to print (default: 5)")

    command = add("decode", _decode, "write the float32 weights of a model file", "zoo decode resnet50-dft resnet50.safetensors")
    command.add_argument("id", metavar="ID", help="id, or path of a model file")
    command.add_argument("out", type=Path, metavar="OUT.safetensors")

    command = add("export", _export, "write a network as other programs take it", "zoo export resnet50-dft --to onnx")
    command.add_argument("id", metavar="ID", help="id, or path of a model file that names its network")
    command.add_argument("--to", required=True, choices=EXPORTED, help="tensors; a graph, checked with onnxruntime; a program")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: the id with .safetensors, .onnx or .pt2")
    command.add_argument("--input", type=_shape, metavar="CxHxW", help="size of the input, where the file does not say it")

    command = add("compress", _compress, "make a checkpoint small", "zoo compress weights.pth --out small.zoo --bits 3")
    _compress_arguments(command)

    command = add("push", _push, "publish an entry on the Hugging Face Hub", "zoo push lenet5-caffe-sq --repo me/lenet5-caffe-sq")
    command.add_argument("id", metavar="ID", help="id, or path of an entry's folder")
    command.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository of the Hub; made if it is not there")
    command.add_argument("--private", action="store_true", help="a new repository is for you alone")

    command.add_argument("--move", action="store_true", help="keep only the record here, which then names the file there")

    command = add("index", _index, "make a zoo of entries on the Hugging Face Hub", "zoo index myzoo hf:me/lenet5-caffe-sq")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="where index.json is written or added to")
    command.add_argument("references", nargs="+", metavar="REFERENCE", help="hf:owner/name, with @revision for an older commit, "
                         "or the address of a collection: https://huggingface.co/collections/owner/title")  # fmt: skip

    command = add("data", _data, "the data sets and where they are, or fetch one", "zoo data fetch cifar10")
    actions = command.add_subparsers(metavar="ACTION")
    fetch = add("fetch", _fetch, "bring a data set into the cache", "zoo data fetch mnist", actions)
    fetch.add_argument("dataset", metavar="DATASET", help="one that `zoo data` lists")
    return parser


def _compress_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pth, .pt, .bin or .safetensors file, an index of shards, a "
                        "folder with one; or timm/NAME, torchvision/NAME, OWNER/NAME of the Hugging Face Hub")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="model file to write, e.g. small.zoo")
    bound = parser.add_mutually_exclusive_group(required=True)
    bound.add_argument("--bytes", metavar="SIZE", help="bound of the whole file: 2MB, 400kB, or bytes")
    bound.add_argument("--bits", type=float, metavar="B", help="the same, in bits for each number of the network")
    bound.add_argument("--error", metavar="+PERCENT", help="as small as the error on --pictures allows, e.g. +1%%")
    parser.add_argument("--network", metavar="NAME", help="what the weights are of, so that zoo.load builds it: a network of "
                        "the zoo as resnet18:10, timm/NAME or torchvision/NAME")  # fmt: skip
    parser.add_argument("--pictures", metavar="FOLDER", help="to calibrate on and measure: pictures, in class folders if their "
                        "classes are known; or a data set that zoo data can fetch")  # fmt: skip
    parser.add_argument("--images", type=int, default=400, metavar="N", help="of these at most (default: %(default)s)")
    parser.add_argument("--synthetic", type=int, default=128, metavar="N", help="without --pictures: calibrate on so "
                        "many made from batch normalisation; 0: on none, plain rounding (default: %(default)s)")  # fmt: skip
    parser.add_argument("--preprocessing", metavar="NAME", help="of the pictures (default: the network's)")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes, one a line, to store in the file")
    parser.add_argument("--key", help="which of several nested state dicts, e.g. ema")
    parser.add_argument("--epochs", type=float, default=1.0, help="of tuning batch normalisation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="intermediate results, from which a stopped run goes on")


def _shape(text: str) -> tuple[int, ...]:
    sides = text.lower().split("x")
    if len(sides) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of an input, as 3x224x224")
    return tuple(map(_positive, sides))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    """Columns as wide as their widest cell; a first cell before empty ones may run over them."""
    sized = [row for row in rows if any(row[1:-1])] or rows
    widths = [max(len(row[i]) for row in [head, *sized]) for i in range(len(head))]
    for row in [head, *rows]:
        if not any(row[1:-1]):
            room = sum(widths[:-1]) + 2 * (len(widths) - 1)
            print(f"{row[0]:<{room}}{row[-1]:>{widths[-1]}}")
            continue
        cells = [f"{c:>{w}}" if i in right else f"{c:<{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    sys.exit(main())
