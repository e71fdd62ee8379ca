using FramePin.Client;
using FramePin.Drivers;
using FramePin.V1;
using Grpc.Core;
using Xunit;
using static FramePin.Tests.Integration.FaultRig;

namespace FramePin.Tests.Integration;

/// <summary>
/// Clients that pin, touch, unmap, fork and give up beside each other, and a handler that answers as it likes and dies
/// now and then.
/// </summary>
public sealed class FaultStressTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private FramePinClient Client => daemon.Client;

    [Fact]
    public async Task Whatever_clients_and_the_handler_do_nothing_is_left_behind()
    {
        const int clients = 6;
        const int rounds = 60;
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        await rig.EndHandlerAsync();
        using var stop = new CancellationTokenSource();
        // A client that gives up an answered call learns of no vector. Its lease gives the vector back.
        var lease = await FramePinLease.OpenAsync(Client, rig.Machine, "clients");
        var handling = HandleAsync(rig, stop.Token);
        var working = Enumerable.Range(0, clients).Select(
            client => Task.Run(() => WorkAsync(rig, lease.Name, new Random(client), rounds))).ToArray();
        await Task.WhenAll(working).WaitAsync(TimeSpan.FromMinutes(2));
        await stop.CancelAsync();
        Assert.True(await handling.WaitAsync(Patience) > clients);
        await lease.DisposeAsync();
        using var late = new CancellationTokenSource(Patience);
        MachineStatistics now;
        do now = (await Client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = rig.Machine }, cancellationToken: late.Token)).Statistics;
        while (now.PinsAcquired != now.PinsReleased || now.ParkedPins > 0);
        Assert.Empty(
            (await Client.Machines.AuditMachineAsync(new AuditMachineRequest { Name = rig.Machine })).Findings);
    }

    /// <summary>
    /// Serves the rig's device, life by life, until told to stop; the faults that it was asked about.
    /// </summary>
    private async Task<int> HandleAsync(FaultRig rig, CancellationToken stop)
    {
        var random = new Random(77);
        var answers = 0;
        while (!stop.IsCancellationRequested)
        {
            using var life = CancellationTokenSource.CreateLinkedTokenSource(stop);
            try
            {
                await FaultServer.RunAsync(
                    Client, new RegisterFaultHandler { Device = rig.Device },
                    fault =>
                    {
                        // Dies after a while, with faults that wait.
                        if (Interlocked.Increment(ref answers) % 40 == 0) life.Cancel();
                        int draw;
                        lock (random) draw = random.Next(10);
                        var kind = draw switch
                        {
                            < 5 => FaultAnswerKind.Page,
                            5 => FaultAnswerKind.Sigbus,
                            6 => FaultAnswerKind.Oom,
                            7 => FaultAnswerKind.Retry,
                            8 => FaultAnswerKind.InsertPfn,
                            _ => FaultAnswerKind.Page,
                        };
                        // 8 is not taken, and asked about again.
                        return ValueTask.FromResult(
                            new FaultAnswer { Kind = kind, Page = draw == 9 ? 99UL : (ulong)draw });
                    },
                    cancellationToken: life.Token);
            }
            catch (Exception exception) when (exception is OperationCanceledException or FramePinException)
            {
                // The next life begins when the daemon has noticed the end of this one.
            }
        }

        return answers;
    }

    private async Task WorkAsync(FaultRig rig, string lease, Random random, int rounds)
    {
        for (var round = 0; round < rounds; round++)
        {
            var page = (ulong)random.Next(DevicePages);
            var address = At + (page * PageSize);
            try
            {
                switch (random.Next(7))
                {
                    case 0 or 1:
                        await rig.UnpinAsync(rig.PinAsync(address, (ulong)random.Next(1, 4)));
                        break;
                    case 2:
                        using (var signal = new CancellationTokenSource())
                        {
                            var request = new PinRequest
                            {
                                AddressSpace = rig.Space,
                                Start = address,
                                Pages = 2,
                                Write = true,
                                Lease = lease
                            };
                            var pin = Client.Pinning.PinAsync(request, cancellationToken: signal.Token).ResponseAsync;
                            await Task.Yield();
                            await signal.CancelAsync();
                            await rig.UnpinAsync(pin);
                        }

                        break;
                    case 3:
                        await rig.TouchAsync(address, 2);
                        break;
                    case 4:
                        await new RemoteFrameMemory(Client).ReadAsync(rig.Space, address, new byte[5000]);
                        break;
                    case 5:
                        await rig.CallAsync(
                            new MemoryCall
                            {
                                Mmap = new MmapCall
                                {
                                    Address = At,
                                    Length = DevicePages * PageSize,
                                    Prot = 3,
                                    Flags = 0x11,
                                    Target = rig.Device
                                }
                            });
                        break;
                    default:
                        var child = (await Client.AddressSpaces.ForkAddressSpaceAsync(
                            new ForkAddressSpaceRequest { Name = rig.Space })).Name;
                        var touch = Client.AddressSpaces.CallAsync(
                            new CallRequest
                            {
                                AddressSpace = child,
                                Call = new MemoryCall { Touch = new TouchCall { Address = address, Pages = 1 } }
                            });
                        await Client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = child });
                        await touch;
                        break;
                }
            }
            catch (Exception exception) when (
                StatusOf(exception) is not (null or StatusCode.Internal or StatusCode.Unknown
                    or StatusCode.DeadlineExceeded))
            {
                // An errno, a signal, an end: what was drawn.
            }
        }
    }

    /// <summary>The status of a refusal, of a stub or of the library; null for any other exception.</summary>
    private static StatusCode? StatusOf(Exception exception) =>
        (exception as RpcException)?.StatusCode ?? (exception as FramePinException)?.StatusCode;
}
