"""How each worker is served; gunicorn reads this file by itself where it is started."""

threads = 100  # every open page holds one
graceful_timeout = 2  # open pages do not end by themselves
loglevel = "warning"
control_socket_disable = True  # nothing here talks to it, and four would share one name
