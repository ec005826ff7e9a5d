// The choice of two cells leads to the address of their comparison, also where no server answers.
const form = document.querySelector("form.choice");
form.addEventListener("submit", event => {
  event.preventDefault();
  const cells = [...form.querySelectorAll("select")].map(select => encodeURIComponent(select.value));
  location.href = new URL(`${cells.join("/")}/`, form.action);
});
