"""What clients such as kubectl ask for before anything else: which kinds there are."""

ALL = {"create", "get", "list", "watch", "patch", "delete"}


def discovered(path, kinds):
    """The answer to a question for versions, groups or kinds; None if the path is none."""
    path = path.rstrip("/")
    groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        listed = [_group(*each) for each in groups]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    own = [kind for kind in kinds if kind.root == path]
    if not own:
        return None
    found = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": own[0].api_version}
    return {**found, "resources": [_resource(kind) for kind in own]}


def _group(group, version):
    there = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [there], "preferredVersion": there}


def _resource(kind):
    return {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": True,
        "kind": kind.kind,
        "verbs": sorted(ALL),
        "shortNames": list(kind.short),
    }
