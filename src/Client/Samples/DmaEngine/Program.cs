using FramePin.Client;
using FramePin.Drivers;
using FramePin.Samples;

// dma-engine [ENDPOINT [MACHINE [NODE]]]: serves the engine until it is ended.
var endpoint = args.Length > 0 ? args[0] : "http://127.0.0.1:7461";
var machine = args.Length > 1 ? args[1] : "machines/default";
var node = args.Length > 2 ? args[2] : "dma0";
using var client = FramePinClient.Connect(endpoint);
await using var kernel = await DriverKernel.OpenAsync(client, machine, "dma-engine", isLocal: false);
await using var engine = new DmaEngine(kernel);
await DriverServer.RunAsync(client, machine, node, engine,
    () => Console.WriteLine($"{engine.Name} serves {machine}/drivers/{node}"), kernel.Lost);
