"""A Kubernetes API server for tests: real HTTP over sockets, in memory.

What it is: the REST of the kinds that `tap` uses, as the real one answers: bearer tokens and roles
(401, 403), namespaces, resource versions, uids, generations, strict decoding (unknown fields are
400, wrong ones 422 with their causes) by KubeRay's own CRD and by the JSON schemas of Kubernetes
itself (`kubernetes-validate`), label and field selectors, dry runs, JSON merge patches, immutable
ConfigMaps, quotas of objects, deletion with finalizers, grace and the three propagation policies,
garbage collection by owner references, watches (bookmarks, 410 once history is cut), pods' logs
(follow, timestamps, sinceSeconds), enough discovery for kubectl, and faults on demand: a status
with Retry-After, a connection that drops before, after or in the middle of an answer.

What it is not: a cluster. No scheduler, kubelet, KubeRay or Kueue lives behind it: tests write the
statuses that those would write. No admission webhooks, no CEL rules, no server-side apply, no
strategic merge beyond what a JSON merge does, no paging, no field management, no TLS.

Why it is here: of what the package registries offer, `kmock` is the strictest that speaks HTTP; it
keeps objects as they come, without schemas, versions, selectors, owners or roles. `mockernetes`
replaces the client, and so does not test it.
"""
