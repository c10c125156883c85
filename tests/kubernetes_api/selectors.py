"""Label and field selectors."""

import re


def matches(each, labels, fields=""):
    own = each["metadata"].get("labels", {})
    return all(_label(own, part) for part in _parts(labels)) and all(
        _field(each, part) for part in _parts(fields)
    )


def _parts(selector):
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _label(own, part):
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", part):
        values = [value.strip() for value in match[3].split(",")]
        return (own.get(match[1]) in values) == (match[2] == "in")
    if match := re.fullmatch(r"([^=!]+?)\s*(==|=|!=)\s*(.*)", part):
        return (own.get(match[1]) == match[3]) == (match[2] != "!=")
    return part[1:] not in own if part.startswith("!") else part in own


def _field(each, part):
    path, value = part.split("=", 1)
    for key in path.strip("=").split("."):
        each = each.get(key, {})
    return each == value.strip("=")
