"""Outcomes and bytes of image URLs: polite, guarded, and resumable.

In the flow's process, `workers` makes rows of a shard's captions, `outcomes` knows what earlier builds requested, and
`gather` gives the URLs, as tasks, to the owners of their hosts, and reads their journals. A journal that is left by a
killed flow is read by the next one.

In each fetching process, `owner` serves the tasks of all shards, and its threads make one request at a time: `frontier`
says whose turn it is, `visits` what becomes of a URL after each request, `robots` and `consent` what a host forbids;
`client` connects to addresses that are allowed, `journal` keeps outcomes and bytes. On a cluster there is one such
process a machine; a lease ends those that the flow cannot reach.

A process that dies: the URLs that waited go to its heir at once, those whose request was under way are tried alone, and
one that kills its process three times is given up. A machine that is lost: all go to others. A flow that is killed: its
processes end, and the next run goes on with the journals.
"""
