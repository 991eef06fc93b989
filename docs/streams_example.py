"""What streams.md says, as a program: draws, experiences, mini-batches, memories, digests and views.

    pip install blake3
    python3 docs/streams_example.py

It prints the values of the page's last tables, from the data set `digits` as it lies in agent/data/digits and from five
small colour images. It is written to be read beside the page, and knows nothing of the Rust code.
"""

from itertools import cycle
from math import floor, isqrt
from pathlib import Path

from blake3 import blake3

ONE = 1 << 16  # 1 in 65,536ths


def u64le(n):
    return n.to_bytes(8, "little")


# The draw


def draw(seed, purpose, counters):
    message = b"dkt.draw.1" + u64le(len(purpose.encode())) + purpose.encode() + b"".join(map(u64le, counters))
    return int.from_bytes(blake3(message, key=u64le(seed) + bytes(24)).digest()[:8], "little")


def below(seed, purpose, n, counters):
    return draw(seed, purpose, counters) * n >> 64


def shuffle(seed, purpose, items, counters):
    for i in range(len(items) - 1, 0, -1):
        j = below(seed, purpose, i + 1, [*counters, i])
        items[i], items[j] = items[j], items[i]
    return items


# Experiences


def domains(labels, split, n_classes, n_domains, seed):
    """The domain of each sample; split 0 is for training, 1 for testing."""
    dealt = []
    for c in range(n_classes):
        dealt += shuffle(seed, "domains", [i for i, label in enumerate(labels) if label == c], [split, c])
    of = [0] * len(labels)
    for place, sample in enumerate(dealt):
        of[sample] = place % n_domains
    return of


def permutation(pixels, domain, seed):
    order = list(range(pixels))
    return shuffle(seed, "permutation", order, [domain]) if domain > 0 else order


def held_out(samples, label, domain, share, seed):
    """Of one class's training samples in an experience, those for validation."""
    shuffled = shuffle(seed, "validation", list(samples), [label, domain])
    n = min(max(floor(share * len(samples) + 0.5), 1), len(samples) - 1)
    return sorted(shuffled[:n])


# Mini-batches and replay


def mini_batches(new, remembered, batch_size, replay_batch_size, seed, experience, epoch):
    new = shuffle(seed, "batches", list(new), [experience, epoch])
    remembered = shuffle(seed, "replay-batches", list(remembered), [experience, epoch])
    again, n = cycle(remembered), min(replay_batch_size, len(remembered))
    return [new[i : i + batch_size] + [next(again) for _ in range(n)] for i in range(0, len(new), batch_size)]


def reservoir(held, n_seen, new, capacity, seed):
    """The memory after samples are offered, and how many ever were."""
    for sample in new:
        n_seen += 1
        if len(held) < capacity:
            held.append(sample)
        elif (place := below(seed, "replay", n_seen, [n_seen])) < capacity:
            held[place] = sample
    return held, n_seen


def class_balanced(held, new, label, capacity, seed):
    classes = sorted({label(sample) for sample in held + new})
    memory = []
    for i, c in enumerate(classes):
        share = capacity // len(classes) + (i < capacity % len(classes))
        ranked = sorted((draw(seed, "replay-rank", [s]), s) for s in {*held, *new} if label(s) == c)
        memory += [sample for _, sample in ranked[:share]]
    return memory


# Views


class Data:
    """Images as lists of channels, each a list of H * W values."""

    def __init__(self, images, height, width):
        self.images, self.height, self.width = images, height, width


class Augmentation:
    def __init__(self, padding=0, flip=False, jitter=(0, 0, 0), cutmix=0.0, views=1):
        self.padding, self.flip = padding, flip
        self.jitter = [floor(x * ONE + 0.5) for x in jitter]
        self.cutmix, self.views = floor(cutmix * ONE + 0.5), views


def digest(data, a):
    numbers = [len(data.images), len(data.images[0]), data.height, data.width, a.padding, int(a.flip)]
    plain = not any(a.jitter) and not a.cutmix
    if not plain:
        numbers += [*a.jitter, a.cutmix, a.views if a.cutmix else 0]
    pixels = b"".join(bytes(channel) for image in data.images for channel in image)
    tag = b"dkt.data.1" if plain else b"dkt.data.2"
    return blake3(tag + b"".join(map(u64le, numbers)) + pixels).digest()


def placement(a, seed, sample, view):
    down, right = (below(seed, "view", 2 * a.padding + 1, [sample, view, what]) for what in (0, 1))
    return down, right, a.flip and below(seed, "view", 2, [sample, view, 2]) == 1


def blend(value, other, factor):
    return min(max((factor * value + (ONE - factor) * other + ONE // 2) >> 16, 0), 255)


def grey(image):
    if len(image) != 3:
        return list(image[0])
    return [(19595 * r + 38470 * g + 7471 * b + ONE // 2) >> 16 for r, g, b in zip(*image)]


ORDERS = ["bcs", "bsc", "cbs", "csb", "sbc", "scb"]


def jittered(a, seed, sample, view, image):
    for change in ORDERS[below(seed, "color-jitter", 6, [sample, view, 3])] if any(a.jitter) else "":
        what = "bcs".index(change)
        distance = a.jitter[what]
        if distance == 0:
            continue
        factor = ONE - distance + below(seed, "color-jitter", 2 * distance + 1, [sample, view, what])
        n = len(image[0])
        if change == "b":
            other = [0] * n
        elif change == "c":
            other = [(2 * sum(grey(image)) + n) // (2 * n)] * n
        else:
            other = grey(image)
        image = [[blend(v, o, factor) for v, o in zip(channel, other)] for channel in image]
    return image


def unmixed(data, a, seed, sample, view):
    h, w, p = data.height, data.width, a.padding
    down, right, flipped = placement(a, seed, sample, view)
    image = []
    for channel in data.images[sample]:
        out = []
        for y in range(h):
            for x in range(w):
                column = w - 1 - x if flipped else x
                r, c = y + down - p, column + right - p
                out.append(channel[r * w + c] if 0 <= r < h and 0 <= c < w else 0)
        image.append(out)
    return jittered(a, seed, sample, view, image)


def box(data, a, seed, sample, view, pool):
    """(partner, first row, row after the last, first column, column after the last), or None."""
    first, last = min(floor(0.1 * ONE + 0.5), a.cutmix), a.views - 1
    probability = first + (a.cutmix - first) * min(view, last) // last if last else a.cutmix
    if below(seed, "cutmix", ONE, [sample, view, 0]) >= probability or not pool:
        return None
    partner = pool[below(seed, "cutmix", len(pool), [sample, view, 1])]
    share = below(seed, "cutmix", 1 << 32, [sample, view, 2])

    def side(n, what):
        size = isqrt(n * n * share >> 32)
        start = below(seed, "cutmix", n, [sample, view, what]) - size // 2
        return max(start, 0), min(start + size, n)

    (top, bottom), (left, right) = side(data.height, 3), side(data.width, 4)
    return (partner, top, bottom, left, right) if top < bottom and left < right else None


def view_of(data, a, sample, view, pool=()):
    """(image, None), or (image, (partner, share of the area that is the partner's))."""
    seed = int.from_bytes(digest(data, a)[:8], "little")
    image = unmixed(data, a, seed, sample, view)
    found = box(data, a, seed, sample, view, pool) if a.cutmix else None
    if found is None:
        return image, None
    partner, top, bottom, left, right = found
    theirs = unmixed(data, a, seed, partner, view)
    for own, other in zip(image, theirs):
        for y in range(top, bottom):
            at = slice(y * data.width + left, y * data.width + right)
            own[at] = other[at]
    return image, (partner, (bottom - top) * (right - left) / (data.height * data.width))


# The tables of the page


def digits():
    folder = Path(__file__).parent.parent / "agent" / "data" / "digits"
    pixels = (folder / "images-idx3-ubyte").read_bytes()[16:]
    labels = (folder / "labels-idx1-ubyte").read_bytes()[8:]
    seen, splits = [0] * 10, ([], [])
    for i, label in enumerate(labels):
        image = [list(pixels[64 * i : 64 * (i + 1)])]
        splits[seen[label] % 5 == 0].append((image, label))
        seen[label] += 1
    return [([image for image, _ in split], [label for _, label in split]) for split in splits]


def row(name, value):
    print(f"| {name} | {value if isinstance(value, str) else ', '.join(map(str, value))} |")


def main():
    print(draw(7, "example", []), draw(7, "example", [1, 2]), below(7, "example", 10, [3]))
    print(shuffle(7, "example", list(range(8)), [5]))

    (images, labels), (test_images, test_labels) = digits()
    data, plain = Data(images, 8, 8), Augmentation(padding=1)
    row("class order, seed 0", shuffle(0, "class-order", list(range(10)), []))
    row("class order, seed 1", shuffle(1, "class-order", list(range(10)), []))
    row("data digest, crop padding 1, no flips", f"`{digest(data, plain).hex()}`")
    seed = int.from_bytes(digest(data, plain)[:8], "little")
    row("(down, right) of sample 0 in its views 0, 1, 2, 3", [placement(plain, seed, 0, v)[:2] for v in range(4)])
    of_class = lambda c: [i for i, label in enumerate(labels) if label == c]
    first = sorted(of_class(8) + of_class(3))
    row("their mini-batches, seed 1, experience 0, epoch 0, first ids", mini_batches(first, [], 32, 32, 1, 0, 0)[0][:8])
    row("replay memory of 100 after them, seed 1, first ids", reservoir([], 0, first, 100, 1)[0][:8])
    row("the same, class-balanced", class_balanced([], first, lambda s: labels[s], 100, 1)[:8])
    validation = sorted(held_out(of_class(8), 8, 0, 0.1, 0) + held_out(of_class(3), 3, 0, 0.1, 0))
    row(f"validation of classes 8 and 3, share 0.1, seed 0 ({len(validation)} samples), first ids", validation[:8])
    train, test = domains(labels, 0, 10, 5, 0), domains(test_labels, 1, 10, 5, 0)
    for name, of in (("training", train), ("test", test)):
        ids = [i for i, domain in enumerate(of) if domain == 0]
        row(f"first of 5 domains, seed 0 ({len(ids)} {name} samples), first ids", ids[:8])
    row("permutation of 8x8 pixels, domain 1, seed 0, first places", permutation(64, 1, 0)[:8])

    colour = Data([[[(37 * (36 * i + 12 * c + k) + 11) % 256 for k in range(12)] for c in range(3)] for i in range(5)], 3, 4)
    pool = range(5)
    for a in (
        Augmentation(padding=1, flip=True, jitter=(0.25, 0.5, 1.0), views=4),
        Augmentation(padding=1, flip=True, jitter=(0.25, 0.5, 1.0), cutmix=0.9, views=4),
    ):
        print("data digest", digest(colour, a).hex())
        for sample, view in ((1, 0), (1, 1), (2, 2), (0, 3), (3, 3)):
            image, mix = view_of(colour, a, sample, view, pool)
            pixels = f"`{b''.join(map(bytes, image)).hex()}`"
            row(f"{sample}, {view}", f"{pixels} | {mix[0]}, {round(12 * mix[1])}/12" if mix else pixels)


if __name__ == "__main__":
    main()
