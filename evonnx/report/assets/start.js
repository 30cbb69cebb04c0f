// The page is complete without any of this; what is added, is added here.

startLayers();
startCompare();
startChoices();
startCharts();
startTabs();
