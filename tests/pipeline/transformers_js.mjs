// What transformers.js makes of a folder in the hub's form: node transformers_js.mjs <package> <models> <name> <photograph>...
// <package> is the folder of @huggingface/transformers; <models>/<name>/ is the folder. Prints JSON.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, models, name, ...photographs] = process.argv.slice(2);
const { AutoModel, AutoModelForImageClassification, AutoProcessor, RawImage, env, pipeline } = await import(
  pathToFileURL(join(folder, "dist", "transformers.node.mjs"))
);
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = models;
env.useFSCache = false;

const processor = await AutoProcessor.from_pretrained(name);
const images = await Promise.all(photographs.map((path) => RawImage.read(path)));
const { pixel_values } = await processor(images);
const found = { version: env.version, dims: pixel_values.dims, pixels: Array.from(pixel_values.data), files: {} };
const classifies = "id2label" in JSON.parse(readFileSync(join(models, name, "config.json"), "utf8"));
for (const dtype of ["fp32", "fp16", "q8"]) {
  if (!classifies) {
    const model = await AutoModel.from_pretrained(name, { dtype });
    const outputs = await model({ pixel_values });
    const extract = await pipeline("image-feature-extraction", name, { dtype });
    const extracted = await extract(photographs);
    found.files[dtype] = {
      outputs: Object.fromEntries(Object.entries(outputs).map(([key, tensor]) => [key, tensor.tolist()])),
      extracted: extracted.tolist(),
    };
    await model.dispose();
    await extract.dispose();
    continue;
  }
  const model = await AutoModelForImageClassification.from_pretrained(name, { dtype });
  const { logits } = await model({ pixel_values });
  const classify = await pipeline("image-classification", name, { dtype });
  const answers = await classify(photographs, { top_k: 5 });
  found.files[dtype] = { logits: logits.tolist(), answers };
  await model.dispose();
  await classify.dispose();
}
console.log(JSON.stringify(found));
