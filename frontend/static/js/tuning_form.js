// What may vary stands at the end of the configuration: the text opens there, where it is changed.

const text = document.getElementById("id_toml");
const at = text?.value.indexOf("[search]") ?? -1;
if (at > 0) {
  const lines = text.value.split("\n").length;
  const before = text.value.slice(0, at).split("\n").length - 1;
  text.scrollTop = (text.scrollHeight * before) / lines;
}
