// The suite of ../suite.py by @grpc/grpc-js. The job has `protos` too, the folders to import from.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
// The packages lie in a cache, not beside this file.
const from = require("node:module").createRequire(path.join(process.cwd(), "package.json"));
const grpc = from("@grpc/grpc-js");
const loader = from("@grpc/proto-loader");

const SEVERAL = 50;
const LARGE = 2 ** 20;
const TIMEOUT = 60_000;

const job = JSON.parse(process.argv[2]);
const definition = loader.loadSync("services.proto", { includeDirs: job.protos, keepCase: true, longs: Number });
const service = grpc.loadPackageDefinition(definition).tensorflow.serving.PredictionService;
const read = (path) => (path === null ? null : fs.readFileSync(path));
const credentials =
  job.authority === null
    ? grpc.credentials.createInsecure()
    : grpc.credentials.createSsl(read(job.authority), read(job.key), read(job.certificate));
const client = new service(job.endpoint, credentials, { "grpc.max_receive_message_length": -1 });

function predict(model, x) {
  const request = {
    model_spec: { name: model },
    inputs: { x: { dtype: "DT_FLOAT", tensor_shape: { dim: [{ size: x.length }] }, float_val: x } },
  };
  return new Promise((resolve, reject) => {
    client.Predict(request, { deadline: Date.now() + TIMEOUT }, (error, answer) =>
      error ? reject(error) : resolve(answer.outputs.y.float_val),
    );
  });
}

async function main() {
  const found = { answer: await predict("half_plus_two", [1, 2]) };
  found.error = await predict("absent", [1]).then(
    (y) => ["OK", String(y)],
    (error) => [error.code, error.details],
  );
  const many = Array.from({ length: SEVERAL }, (_, number) => predict("half_plus_two", [number]));
  found.several = await Promise.all(many);
  const large = await predict("half_plus_two", Array.from({ length: LARGE }, (_, i) => i % 1024));
  found.large = crypto.createHash("sha256").update(Buffer.from(Float32Array.from(large).buffer)).digest("hex");
  client.close();
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
