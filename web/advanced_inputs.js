// Nodes 2.0 hides the inputs that a node calls advanced until they are asked for. The classic canvas can, too, but does
// so only for widgets that say it themselves (right click, "Show Advanced").
import { app } from "../../scripts/app.js"

app.registerExtension({
  name: "mcti.AdvancedInputs",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("MCTI_")) return
    for (const widget of node.widgets ?? []) widget.advanced ||= Boolean(widget.options?.advanced)
    node.setSize(node.computeSize())
  },
})
