"""A fleet: what the processes of a service share over a Redis server.

Imported by those who set `fleet=` alone. Redis holds soft state: all of it may vanish at any time.
`address` reads the setting, `link` is the connection, `scripts` run in Redis, `shared_health`
keeps this process's breakers in step with those of the others, `member` is this process.
"""
