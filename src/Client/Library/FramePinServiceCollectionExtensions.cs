using FramePin.Client;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Logging;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Registers the client of FramePin with a container.</summary>
public static class FramePinServiceCollectionExtensions
{
    /// <summary>
    /// Registers one <see cref="FramePinClient"/> for the whole container, which makes it at its first use and disposes
    /// it. The container's <see cref="ILoggerFactory"/> and <see cref="TimeProvider"/> are the client's, unless
    /// <paramref name="configure"/> sets others. A second registration has no effect.
    /// </summary>
    /// <param name="services">The container's registrations.</param>
    /// <param name="configure">Sets the endpoint and whatever else differs from the defaults.</param>
    /// <returns><paramref name="services"/>.</returns>
    public static IServiceCollection AddFramePinClient(
        this IServiceCollection services, Action<FramePinClientOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(configure);
        services.TryAddSingleton(provider =>
        {
            var options = new FramePinClientOptions
            {
                LoggerFactory = provider.GetService<ILoggerFactory>(),
                TimeProvider = provider.GetService<TimeProvider>() ?? TimeProvider.System,
            };
            configure(options);
            return new FramePinClient(options);
        });
        return services;
    }
}
