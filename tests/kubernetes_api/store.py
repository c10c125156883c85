"""Objects in memory: versions, owners, deletion, history for watches."""

import copy
import threading
import uuid
from datetime import UTC, datetime

from kubernetes_api.selectors import matches

FOREGROUND = "foregroundDeletion"


class RefusedError(Exception):
    def __init__(self, code, reason, message, **details):
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.headers = {}


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All methods may be called from any thread."""

    def __init__(self):
        self.objects = {}  # (plural, namespace, name) -> object
        self.history = []  # (version, type, plural, namespace, object, object before)
        self.oldest = 0
        self.version = 100
        self.changed = threading.Condition(threading.RLock())

    def get(self, kind, namespace, name):
        with self.changed:
            try:
                return copy.deepcopy(self.objects[kind.plural, namespace, name])
            except KeyError:
                raise not_found(kind, name) from None

    def list(self, kind, namespace, labels="", fields=""):
        with self.changed:
            found = [
                copy.deepcopy(each)
                for (plural, where, _), each in sorted(self.objects.items())
                if plural == kind.plural
                and namespace in (None, where)
                and matches(each, labels, fields)
            ]
            return found, str(self.version)

    def create(self, kind, namespace, body, dry=False):
        with self.changed:
            name = body["metadata"]["name"]
            if (kind.plural, namespace, name) in self.objects:
                message = f'{kind.people} "{name}" already exists'
                raise RefusedError(409, "AlreadyExists", message, name=name, kind=kind.plural)
            made = copy.deepcopy(body)
            metadata = made["metadata"]
            metadata |= {
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": now(),
                "generation": 1,
            }
            if dry:
                return made
            self._put(kind.plural, namespace, made, "ADDED")
            self._collect()
            return copy.deepcopy(made)

    def patch(self, kind, namespace, name, change, status=False):
        with self.changed:
            before = self.get(kind, namespace, name)
            wanted = change.get("metadata", {}).get("resourceVersion")
            if wanted and wanted != before["metadata"]["resourceVersion"]:
                message = f'Operation cannot be fulfilled on {kind.people} "{name}": it has changed'
                raise RefusedError(409, "Conflict", message, name=name, kind=kind.plural)
            after = merged(before, change)
            if kind.kind == "ConfigMap" and before.get("immutable"):
                for key in ("data", "binaryData", "immutable"):
                    if after.get(key) != before.get(key):
                        raise RefusedError(422, "Invalid", f"{key}: Forbidden: field is immutable")
            if after.get("spec") != before.get("spec"):
                after["metadata"]["generation"] += 1
            self._put(kind.plural, namespace, after, "MODIFIED", before)
            self._collect()
            return copy.deepcopy(after)

    def delete(self, kind, namespace, name, policy="Background", grace=None, uid=None):
        """What is left of it: the object, or None if it is gone."""
        with self.changed:
            each = self.get(kind, namespace, name)
            metadata = each["metadata"]
            if uid not in (None, metadata["uid"]):
                raise RefusedError(
                    409, "Conflict", f"the UID in the precondition is not {metadata['uid']}"
                )
            finalizers = set(metadata.get("finalizers", []))
            if policy == "Foreground":
                finalizers.add(FOREGROUND)
            if policy == "Orphan":
                self._orphan(metadata["uid"])
            if kind.kind == "Pod" and grace != 0:
                finalizers.add("kubelet")  # as if: it stays until its processes have ended
            if grace == 0:
                finalizers.discard("kubelet")
            if not finalizers:
                self._remove(kind.plural, namespace, name)
                self._collect()
                return None
            changes = {"finalizers": sorted(finalizers)}
            if "deletionTimestamp" not in metadata:
                changes["deletionTimestamp"] = now()
                changes["deletionGracePeriodSeconds"] = grace or 0
            after = merged(each, {"metadata": changes})
            self._put(kind.plural, namespace, after, "MODIFIED", each)
            self._collect()
            left = self.objects.get((kind.plural, namespace, name))
            return copy.deepcopy(left)

    def end_pod(self, namespace, name):
        """What a kubelet does when the processes of a deleted pod have ended."""
        with self.changed:
            each = self.objects["pods", namespace, name]
            each["metadata"]["finalizers"].remove("kubelet")
            self._collect()

    def events_after(self, version, plural, namespace, labels, fields):
        """Watch events since a version, and the version that they reach."""
        found = []
        for number, word, of, where, each, before in self.history:
            if number <= version or of != plural or namespace not in (None, where):
                continue
            is_in, was_in = (
                x is not None and matches(x, labels, fields) for x in (each, before or each)
            )
            came_or_went = word == "MODIFIED" and before is not None and is_in != was_in
            told = ("ADDED" if is_in else "DELETED") if came_or_went else word
            if is_in or came_or_went:
                found.append({"type": told, "object": copy.deepcopy(each)})
        return found, self.version

    def forget_history(self):
        """What a server does after some minutes: older versions cannot be watched from."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.history.clear()
            self.changed.notify_all()

    def _put(self, plural, namespace, each, word, before=None):
        self.version += 1
        each["metadata"]["resourceVersion"] = str(self.version)
        self.objects[plural, namespace, each["metadata"]["name"]] = each
        entry = (self.version, word, plural, namespace, copy.deepcopy(each), before)
        self.history.append(entry)
        self.changed.notify_all()

    def _remove(self, plural, namespace, name):
        each = self.objects.pop((plural, namespace, name))
        self.version += 1
        each["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, "DELETED", plural, namespace, each, None))
        self.changed.notify_all()

    def _orphan(self, uid):
        for each in self.objects.values():
            owners = each["metadata"].get("ownerReferences", [])
            each["metadata"]["ownerReferences"] = [o for o in owners if o["uid"] != uid]

    def _collect(self):
        """The garbage collector, until nothing moves."""
        while self._collect_one():
            pass

    def _collect_one(self):
        there = {each["metadata"]["uid"]: each for each in self.objects.values()}
        for (plural, namespace, name), each in list(self.objects.items()):
            metadata = each["metadata"]
            owners = metadata.get("ownerReferences", [])
            living = [there[o["uid"]] for o in owners if o["uid"] in there]
            leaving = all(FOREGROUND in o["metadata"].get("finalizers", []) for o in living)
            deleted = "deletionTimestamp" in metadata
            if owners and leaving and not deleted:
                kind = next(k for k in _kinds() if k.plural == plural)
                self.delete(kind, namespace, name, "Foreground" if living else "Background")
                return True
            finalizers = metadata.get("finalizers", [])
            if FOREGROUND in finalizers and not self._blocks(metadata["uid"]):
                finalizers.remove(FOREGROUND)
                return True
            if deleted and not finalizers:
                self._remove(plural, namespace, name)
                return True
        return False

    def _blocks(self, uid):
        return any(
            owner["uid"] == uid and owner.get("blockOwnerDeletion")
            for each in self.objects.values()
            for owner in each["metadata"].get("ownerReferences", [])
        )


def _kinds():
    from kubernetes_api.kinds import KINDS

    return KINDS


def merged(base, change):
    """RFC 7386."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    result = copy.deepcopy(base) if isinstance(base, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def not_found(kind, name):
    message = f'{kind.people} "{name}" not found'
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return RefusedError(404, "NotFound", message, **details)
