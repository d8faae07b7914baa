// The page: what the server knows is asked once, then the parts are put together.

import { api } from "./api.js";
import { createBar, showTool } from "./bar.js";
import { createCompose } from "./compose.js";
import { h } from "./dom.js";
import { takeDrops } from "./drops.js";
import { createForm } from "./form.js";
import { promptPart } from "./form_prompt.js";
import { settingsPart } from "./form_settings.js";
import { runBar } from "./run_bar.js";
import { createRuns } from "./runs.js";
import { createStage } from "./stage.js";
import { loadWords, t } from "./words.js";

async function main() {
  const view = document.getElementById("create");
  let app;
  try {
    const [model, methods, schema] = await Promise.all([api.model(), api.methods(), api.requestSchema(), loadWords()]);
    app = { model, form: createForm(model, methods, schema), runs: createRuns() };
  } catch (error) {
    view.append(h("p", { class: "notice error", role: "alert" }, t(error.message)));
    throw error;
  }
  document.getElementById("bar").append(...createBar(app.model));
  showTool();
  view.append(promptPart(app), runBar(app), createStage(app), settingsPart(app));
  document.getElementById("compose").append(...createCompose(app));
  takeDrops(app);
  await app.runs.find().catch((error) => app.runs.refuse(error));
  view.removeAttribute("aria-busy");
}

main();
