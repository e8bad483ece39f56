// ../all_rpcs.py by @grpc/grpc-js. The job has `protos` too, the folder of TensorFlow Serving's .proto files.
"use strict";

const path = require("node:path");
// The packages lie in a cache, not beside this file.
const from = require("node:module").createRequire(path.join(process.cwd(), "package.json"));
const grpc = from("@grpc/grpc-js");
const loader = from("@grpc/proto-loader");

const TIMEOUT = 60_000;

const job = JSON.parse(process.argv[2]);
const services = ["prediction_service", "model_service"].map((name) => `tensorflow_serving/apis/${name}.proto`);
const definition = loader.loadSync(services, {
  includeDirs: [job.protos],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const serving = grpc.loadPackageDefinition(definition).tensorflow.serving;
const prediction = new serving.PredictionService(job.endpoint, grpc.credentials.createInsecure());
const models = new serving.ModelService(job.endpoint, grpc.credentials.createInsecure());

const CODES = { OK: 0 };
const STATES = { AVAILABLE: 30 };

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, { deadline: Date.now() + TIMEOUT }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

const refused = (client, method, request) =>
  call(client, method, request).then(
    (answer) => ["OK", JSON.stringify(answer)],
    (error) => [error.code, error.details],
  );

function spec(name, { signature = "", version = 0, label = "" } = {}) {
  const made = { name, signature_name: signature };
  if (version) made.version = { value: version };
  if (label) made.version_label = label;
  return made;
}

// --- ModelService ---

function reloading(names, labels = false) {
  const config = names.map((name) => ({
    name,
    base_path: job.models[name],
    model_platform: "tensorflow",
    model_version_policy: { all: {} },
    version_labels: labels && name === "half_plus_two" ? { stable: 1, canary: 2 } : {},
  }));
  return { config: { model_config_list: { config } } };
}

async function statuses(model = "half_plus_two", options = {}) {
  const answer = await call(models, "GetModelStatus", { model_spec: spec(model, options) });
  return answer.model_version_status.map((entry) => [
    entry.version,
    STATES[entry.state],
    CODES[entry.status.error_code],
  ]);
}

// The reload waits for one version of each model only.
async function untilAvailable() {
  const until = Date.now() + TIMEOUT;
  for (const model of Object.keys(job.models)) {
    while ((await statuses(model)).some(([, state]) => state !== STATES.AVAILABLE)) {
      if (Date.now() > until) throw new Error(`${model} is not available`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

// --- Predict ---

function half_plus_two(size, { content = "", values = [], ...options } = {}) {
  const x = { dtype: "DT_FLOAT", tensor_shape: { dim: [{ size }] }, float_val: values };
  x.tensor_content = Buffer.from(content, "hex");
  return { model_spec: spec("half_plus_two", options), inputs: { x } };
}

async function answered(size, options) {
  const { outputs, model_spec } = await call(prediction, "Predict", half_plus_two(size, options));
  const { name, version, signature_name, version_label } = model_spec;
  return [outputs.y.float_val, name, version.value, signature_name, version_label ?? ""];
}

async function echoed(dtype, [name, field, values, content]) {
  const found = [];
  for (const given of content === null ? ["typed"] : ["typed", "bytes"]) {
    const x = { dtype: name, tensor_shape: { dim: [{ size: 2 }] } };
    if (given === "bytes") x.tensor_content = Buffer.from(content, "hex");
    else x[field] = values.map((v) => (typeof v === "string" ? Buffer.from(v) : v));
    const request = { model_spec: spec("echo_all_dtypes", { signature: dtype }), inputs: { x } };
    const { y } = (await call(prediction, "Predict", request)).outputs;
    const back = y[field].map((v) => (Buffer.isBuffer(v) ? v.toString() : v));
    found.push([y.dtype, y.tensor_shape.dim.map((dim) => dim.size), back]);
  }
  return found;
}

const example = (x) => ({ features: { feature: { x: { float_list: { value: [x] } } } } });
const entries = (map, make) => Object.fromEntries(Object.entries(map).map(([key, value]) => [key, make(value)]));

async function main() {
  const found = { reloads: [] };
  for (const labels of [false, true]) {
    const answer = await call(models, "HandleReloadConfigRequest", reloading(Object.keys(job.models), labels));
    found.reloads.push(CODES[answer.status.error_code]);
    await untilAvailable();
  }
  found.statuses = [await statuses(), await statuses("half_plus_two", { version: 1 })];
  const values = [1, 2];
  found.predict = {
    latest: await answered(2, { values }),
    signature: await answered(2, { values, signature: "serving_default" }),
    version: await answered(2, { values, version: 1 }),
    stable: await answered(2, { values, label: "stable" }),
    canary: await answered(2, { values, label: "canary" }),
    content: await answered(2, { content: "0000803f00000040" }),
    content_wins: await answered(1, { content: "0000803f", values: [9] }),
    last_repeated: await answered(3, { values }),
    nothing: await answered(2),
  };
  found.tensors = {};
  for (const [dtype, how] of Object.entries(job.tensors)) found.tensors[dtype] = await echoed(dtype, how);
  const scalar = (value) => ({ dtype: "DT_FLOAT", tensor_shape: { dim: [{ size: 1 }] }, float_val: [value] });
  const pair = { model_spec: spec("multi"), inputs: { a: scalar(5), b: scalar(3) }, output_filter: ["diff"] };
  found.filtered = entries((await call(prediction, "Predict", pair)).outputs, (y) => y.float_val);

  const input = { example_list: { examples: [example(1), example(3)] } };
  const classified = await call(prediction, "Classify", { model_spec: spec("examples"), input });
  found.classes = classified.result.classifications.map((row) => row.classes.map((c) => [c.label, c.score]));
  const regressed = await call(prediction, "Regress", {
    model_spec: spec("examples", { signature: "regress", version: 1 }),
    input: { example_list_with_context: { examples: [{}], context: example(1) } },
  });
  found.values = [regressed.result.regressions.map((entry) => entry.value), regressed.model_spec.version.value];
  const tasks = [
    { model_spec: spec("examples"), method_name: "tensorflow/serving/classify" },
    { model_spec: spec("examples", { signature: "regress" }), method_name: "tensorflow/serving/regress" },
  ];
  const { results } = await call(prediction, "MultiInference", { tasks, input });
  found.multi = results.map((one) => [one.result, one.model_spec.signature_name, one.model_spec.version.value]);

  const described = await call(prediction, "GetModelMetadata", {
    model_spec: spec("half_plus_two", { label: "stable" }),
    metadata_field: ["signature_def"],
  });
  const any = described.metadata.signature_def;
  const { signature_def } = definition[any.type_url.split("/")[1]].deserialize(any.value);
  found.metadata = [
    described.model_spec.version.value,
    entries(signature_def, (signature) => [
      signature.method_name,
      entries(signature.inputs, (x) => x.tensor_shape.dim.map((dim) => dim.size)),
      entries(signature.outputs, (y) => y.dtype),
    ]),
  ];

  const wrong = half_plus_two(1);
  wrong.inputs.x.dtype = "DT_DOUBLE";
  found.refused = {
    label: await refused(prediction, "Predict", half_plus_two(1, { label: "nobody" })),
    dtype: await refused(prediction, "Predict", wrong),
    length: await refused(prediction, "Predict", half_plus_two(2, { content: "313233" })),
    examples: await refused(prediction, "Classify", { model_spec: spec("examples") }),
    field: await refused(prediction, "GetModelMetadata", { model_spec: spec("half_plus_two") }),
    version: await refused(models, "GetModelStatus", { model_spec: spec("half_plus_two", { version: 9 }) }),
    twice: await refused(models, "HandleReloadConfigRequest", reloading(["examples", "examples"])),
    session_run: await new Promise((resolve) => {
      const same = (data) => data;
      const method = "/tensorflow.serving.SessionService/SessionRun";
      models.makeUnaryRequest(method, same, same, Buffer.alloc(0), (error) =>
        resolve(error ? [error.code, error.details] : ["OK", ""]),
      );
    }),
  };
  prediction.close();
  models.close();
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
