"""A line plot with error bars as SVG: logarithmic x, few colours that print, no dependencies."""

import math
import os

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 150, 32, 44
COLOURS = ("#1b6ca8", "#c4541c", "#3a7d44", "#7a4a9c", "#8a6d1d")


def ticks(low, high, count=5):
    """Round numbers within [low, high]."""
    span = (high - low) or 1
    size = 10 ** math.floor(math.log10(span / count))
    size *= next(m for m in (1, 2, 5, 10) if span / (size * m) <= count)
    first = math.ceil(low / size)
    return [k * size for k in range(first, math.floor(high / size) + 1)]


def text(x, y, words, anchor="middle", turn=""):
    return '<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>' % (x, y, anchor, turn, words)


def plot(path, series, title, x_name, y_name):
    """series: [(name, xs, ys, errors)], xs > 0."""
    xs = [float(x) for s in series for x in s[1]]
    lows = [float(y - e) for s in series for y, e in zip(s[2], s[3])]
    highs = [float(y + e) for s in series for y, e in zip(s[2], s[3])]
    x0, x1 = math.log10(min(xs)), math.log10(max(xs))
    y0, y1 = min(lows), max(highs)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    def px(x):
        return LEFT + (math.log10(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y):
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" '
           'font-size="12">' % (WIDTH, HEIGHT), '<rect width="100%" height="100%" fill="white"/>',
           text((LEFT + WIDTH - RIGHT) / 2, 18, title)]
    for y in ticks(y0, y1):
        out.append('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>'
                   % (LEFT, WIDTH - RIGHT, py(y), py(y)))
        out.append(text(LEFT - 6, py(y) + 4, "%.4g" % y, "end"))
    for power in range(math.floor(x0), math.ceil(x1) + 1):
        for digit in (1, 2, 5):
            x = digit * 10 ** power
            if x0 - 1e-9 <= math.log10(x) <= x1 + 1e-9:
                out.append('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#999"/>'
                           % (px(x), px(x), HEIGHT - BOTTOM, HEIGHT - BOTTOM + 4))
                out.append(text(px(x), HEIGHT - BOTTOM + 17, "%g" % x))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_name))
    out.append(text(14, (TOP + HEIGHT - BOTTOM) / 2, y_name, "middle",
                    ' transform="rotate(-90 14 %.1f)"' % ((TOP + HEIGHT - BOTTOM) / 2)))
    for i, (name, sx, sy, se) in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join("%.1f,%.1f" % (px(x), py(y)) for x, y in zip(sx, sy))
        out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="1.8"/>'
                   % (points, colour))
        for x, y, e in zip(sx, sy, se):
            if e > 0:
                out.append('<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" '
                           'stroke-opacity="0.5"/>' % (px(x), px(x), py(y - e), py(y + e), colour))
        y = TOP + 14 + 18 * i
        out.append('<line x1="%d" x2="%d" y1="%d" y2="%d" stroke="%s" stroke-width="3"/>'
                   % (WIDTH - RIGHT + 10, WIDTH - RIGHT + 30, y, y, colour))
        out.append(text(WIDTH - RIGHT + 36, y + 4, name, "start"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("\n".join(out + ["</svg>", ""]))
