(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const say = () => {
    button.setAttribute("aria-pressed", String(dark()));
    button.textContent = dark() ? "Light" : "Dark";
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    say();
  });
  say();

  const dialog = document.getElementById("zoom");
  document.querySelectorAll("button.picture").forEach((picture) => {
    picture.addEventListener("click", () => {
      const image = picture.querySelector("img");
      const shown = dialog.querySelector("img");
      shown.src = image.src;
      shown.alt = image.alt;
      shown.className = image.className;
      dialog.querySelector("p").textContent = image.alt;
      dialog.showModal();
    });
  });
  dialog.addEventListener("click", () => dialog.close());
})();
