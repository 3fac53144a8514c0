// Nodes 2.0 hides a node's advanced inputs until the user shows them. The classic canvas does so only for widgets that
// are marked as advanced themselves (right click, "Show Advanced").
import { app } from "../../scripts/app.js"

app.registerExtension({
  name: "mcti.AdvancedInputs",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("MCTI_")) return
    for (const widget of node.widgets ?? []) widget.advanced ||= Boolean(widget.options?.advanced)
    node.setSize(node.computeSize())
  },
})
