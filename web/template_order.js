// ComfyUI lists a pack's templates in file-system order; sort them by the numbers in their names.
import { api } from "../../scripts/api.js"

const PACK = new URL(".", import.meta.url).pathname.split("/").filter(Boolean).pop()
const listed = api.getWorkflowTemplates

if (listed)
  api.getWorkflowTemplates = async function (...rest) {
    const templates = await listed.apply(this, rest)
    templates[PACK]?.sort()
    return templates
  }
