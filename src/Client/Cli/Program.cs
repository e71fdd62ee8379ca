using FramePin.Cli;

return await Root.RunAsync(args);
