"""Load tests of any server with TensorFlow Serving's protocols: when requests come, what they are, what came of them.

`testing.loadtest` is what users call; `testing.start` returns at once, for dashboards; `arguments` checks what they are
given. The rest, one idea each:

- `schedule`: arrival times, drawn before the run; `target`: whom to ask; `payload`: requests, encoded before the run
- `running`: owns the process that sends them. In that process: `child` (its life), `loops` (closed and open loop),
  `grpc_lanes` and `rest_lanes` (connections), `alarm` (a timer that is exact enough)
- between the two: `job` (what to do) and `ledger` (what happened, in memory that both see)
- `analysis`: pure functions of arrays; `summary`: what they say of a run; `objective`: latency objectives
- `result`: arrays, tables, pictures (`plots`), files (`files`) of a run

Nothing is imported here, as the sending process starts with this package and should start fast.
"""
